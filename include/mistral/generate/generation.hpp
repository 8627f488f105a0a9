#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>
#include <mistral/generate/log_probability.hpp>
#include <mistral/generate/options.hpp>
#include <mistral/generate/prompt_lookup.hpp>
#include <mistral/generate/sampler.hpp>
#include <mistral/generate/stop.hpp>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

namespace mistral {

/// The tokens that follow a prompt, as an input range that computes each when it is asked for, and the reason why they
/// end. What `Session::generate` returns; the session must outlive it and be used by nobody else meanwhile.
///
/// A token belongs to the session as soon as it is sampled: the session's position counts it, though it is computed
/// only when what follows it is asked for. So a loop that is left early, and one that ran to its end, leave a session
/// that holds exactly the prompt and the tokens seen, drafts or not. A stop token is in the session too, where chat
/// templates want it, but not in the range.
template <class Session>
class Generation {
  public:
    /// Throws Error for options outside their range, and for drafts that the session could not take back.
    Generation(Session& session, std::span<const Token> prompt, GenerateOptions options)
        : session_(&session),
          prompt_(prompt.begin(), prompt.end()),
          options_(std::move(options)),
          sampler_(options_),
          lookup_(options_.draft_tokens) {
        validate(options_, session.model().config().vocab_size);
        require(options_.draft_tokens <= session.longest_draft(), "draft_tokens is ", options_.draft_tokens,
                ", but the session's rewind is ", session.options().rewind,
                ": drafts that fail are taken back, so rewind must be as large");
        require(options_.stop_strings.empty(), "stop_strings are given, but tokens have no text: use generate_text");
        require(!prompt_.empty() || session.position() > 0,
                "the prompt is empty and so is the session: there is nothing to continue");
        alternatives_.reserve(static_cast<std::size_t>(options_.logprobs));
    }

    /// Computes the next token; the first call computes the prompt too. Returns false at the end, for which `reason`
    /// tells why. Throws Error where the prompt does not fit or the logits are unusable.
    bool next() {
        if (!goes_on()) return false;
        token_ = sampler_.sample(logits(), session_->recent(options_.repetition_window));
        session_->push(token_);
        lookup_.push(token_);
        if (stops(token_)) return end(StopReason::stop_token);
        ++generated_;
        return true;
    }

    /// Why the generation ended; `none` before, also when its loop was left early.
    [[nodiscard]] StopReason reason() const { return reason_; }

    /// Tokens generated so far, without a stop token.
    [[nodiscard]] Index generated() const { return generated_; }

    /// Tokens drafted so far, with `draft_tokens`, and those of them that were generated without a forward pass of
    /// their own.
    [[nodiscard]] Index drafted() const { return lookup_.drafted(); }
    [[nodiscard]] Index accepted() const { return lookup_.accepted(); }

    /// The newest token.
    [[nodiscard]] Token token() const { return token_; }

    /// The natural logarithm of the probability that the model gave to the newest token: of the raw logits, before
    /// temperature, penalty or any other step. Throws Error once the session has moved on.
    [[nodiscard]] double logprob() const { return log_probability(logits_before(), token_); }

    /// The `logprobs` most likely tokens in the newest token's place, with the same log-probabilities, the most likely
    /// first. Valid until the next call. Throws Error as above.
    [[nodiscard]] std::span<const TokenLogprob> alternatives() {
        const auto logits = logits_before();
        most_likely(logits, log_sum_exp(logits), options_.logprobs, alternatives_);
        return alternatives_;
    }

    /// Single pass: whoever begins again continues.
    class Iterator {
      public:
        using value_type = Token;
        using difference_type = std::ptrdiff_t;
        using iterator_concept = std::input_iterator_tag;

        Iterator() = default;
        explicit Iterator(Generation& generation) : generation_(&generation) {}

        [[nodiscard]] Token operator*() const {
            generation_->look();
            return generation_->token();
        }
        Iterator& operator++() {
            generation_->look();
            generation_->seen_ = false;
            return *this;
        }
        void operator++(int) { ++*this; }

        friend bool operator==(const Iterator& it, std::default_sentinel_t) { return it.at_end(); }

      private:
        [[nodiscard]] bool at_end() const { return !generation_->look(); }

        Generation* generation_ = nullptr;
    };

    [[nodiscard]] Iterator begin() { return Iterator(*this); }
    [[nodiscard]] std::default_sentinel_t end() const { return {}; }

  private:
    template <class Generations>
    friend bool next_together(Generations&& generations);

    static bool next(std::span<Generation> generations) {
        std::vector<Session*> sessions;
        for (Generation& generation : generations)
            if (generation.goes_on()) sessions.push_back(generation.session_);
        if (sessions.size() > 1) Session::compute_logits(sessions);  // one that is alone may draft
        bool any = false;
        for (Generation& generation : generations) any |= generation.next();
        return any;
    }

    /// Computes the token under the iterator where that has not been done; returns whether there is one. Advancing
    /// alone computes nothing, so that `std::views::take(n)` takes no more than n.
    bool look() {
        if (!seen_) {
            seen_ = true;
            next();
        }
        return reason_ == StopReason::none;
    }

    /// Whether there is a token more to compute, with the prompt computed.
    bool goes_on() {
        if (reason_ != StopReason::none) return false;
        if (!append_prompt()) return end(StopReason::cancelled);
        if (generated_ == options_.max_tokens) return end(StopReason::max_tokens);
        if (options_.stop.stop_requested()) return end(StopReason::cancelled);
        if (!session_->has_room_for(1)) return end(StopReason::context_full);
        return true;
    }

    bool end(StopReason reason) {
        reason_ = reason;
        return false;
    }

    /// Returns whether the prompt is in the session: not when it was cancelled between two chunks.
    bool append_prompt() {
        try {
            session_->append(prompt_, options_.stop);
        } catch (const Cancelled&) {
            return false;
        }
        prompt_.clear();
        return true;
    }

    /// The logits of the next token, computed with those after a draft where they are not there from one. A token is
    /// sampled from the same logits with the same random number as without drafts, and a draft is right where it has
    /// the same token: the acceptance rule of speculative sampling (arXiv:2211.17192) for drafts without randomness,
    /// and moreover the same text for the same seed.
    auto logits() {
        if (session_->has_logits()) return session_->logits();
        Index most = std::min(options_.draft_tokens, options_.max_tokens - generated_ - 1);
        while (!session_->has_room_for(most)) --most;
        return session_->logits(lookup_.draft(session_->recent(PromptLookup::reach), most));
    }

    [[nodiscard]] bool stops(Token token) const {
        const auto among = [token](const std::vector<Token>& tokens) {
            return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
        };
        return among(options_.stop_tokens) || (!options_.ignore_eos && among(session_->model().config().eos_tokens));
    }

    auto logits_before() const {
        require(generated_ > 0, "log-probabilities were asked for before the first token");
        return session_->logits_before_last();
    }

    Session* session_;
    std::vector<Token> prompt_;
    GenerateOptions options_;
    Sampler sampler_;
    PromptLookup lookup_;
    std::vector<TokenLogprob> alternatives_;
    Index generated_ = 0;
    Token token_ = 0;
    StopReason reason_ = StopReason::none;
    bool seen_ = false;  // the iterator's token has been computed
};

/// `next` of several generations, in a vector or the like, over sessions of one model: what each has to compute is one
/// pass for all of them, without drafts, which takes little longer than that of one. Prompts are computed by
/// themselves. Each gives the tokens that it would give alone; those that have ended are passed over. Returns whether
/// any has a token more, which is so for those without a `reason`. Throws Error as `next` and Session::compute_logits.
template <class Generations>
bool next_together(Generations&& generations) {
    const std::span all(generations);
    return decltype(all)::value_type::next(all);
}

}  // namespace mistral

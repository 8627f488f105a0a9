#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>
#include <mistral/base/window.hpp>
#include <mistral/generate/generation.hpp>
#include <mistral/generate/log_probability.hpp>
#include <mistral/generate/logit_rows.hpp>
#include <mistral/generate/options.hpp>
#include <mistral/generate/saved_session.hpp>
#include <mistral/generate/stop.hpp>
#include <mistral/generate/token_history.hpp>
#include <mistral/model/mistral_model.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <filesystem>
#include <istream>
#include <memory>
#include <ostream>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

namespace mistral {

/// One sequence over a shared model: its caches, its tokens, its position and the logits that follow. C is the cache's
/// scalar. A session keeps its model alive; any number of them share one model, each used by one thread at a time.
///
///     Session session(model);
///     for (Token token : session.generate(prompt, {.max_tokens = 100})) ...
///
/// Tokens given by `append` are computed at once, in chunks; one given by `push`, which is how `generate` adds what it
/// samples, is computed together with what follows it. Both count in `position()`. Same tokens, same bits: neither
/// chunks (but see ActivationPrecision) nor rewinds nor other sessions change a result.
template <class Model, class C = DefaultCacheScalar<typename Model::WeightScalar>>
class Session {
  public:
    using A = typename Model::A;

    /// Holds a copy of the model, which shares its weights. Throws Error for options outside their range.
    explicit Session(Model model, const SessionOptions& options = {})
        : model_(std::make_shared<const Model>(std::move(model))),
          options_(validated(options)),
          state_(model_->device(), model_->config(), {.context = options.context, .rewind = options.rewind}),
          history_(std::max(tokens_kept(), options.chunk)),
          logits_(model_->config().vocab_size) {}

    /// An independent session with the same past, over the same model. It copies what the caches hold, the newest
    /// tokens and logits. It takes cache_bytes() of address space, of which memory becomes physical as it is written,
    /// and scratch memory of its own with its first computation.
    [[nodiscard]] Session fork() const { return *this; }

    [[nodiscard]] const Model& model() const { return *model_; }
    [[nodiscard]] const SessionOptions& options() const { return options_; }
    /// Tokens so far, which is the position of the next one.
    [[nodiscard]] Index position() const { return history_.end(); }
    /// Memory of the caches in bytes: constant from the start.
    [[nodiscard]] Index cache_bytes() const { return state_.bytes(); }
    /// The newest `count` tokens, oldest first, or as many as are kept: GenerateOptions::max_repetition_window at
    /// least. Valid until the session changes.
    [[nodiscard]] std::span<const Token> recent(Index count) const { return history_.last(count); }
    /// Whether so many tokens more can follow: always, unless a layer has no window, or one above the context.
    [[nodiscard]] bool has_room_for(Index tokens) const {
        return state_.has_room_for(std::min(tokens, no_window - 1) + pending());
    }
    /// The longest draft that `logits` takes: `rewind` of the options, as rejected tokens are taken back. Without
    /// layers that roll nothing is overwritten, and it may have any length.
    [[nodiscard]] Index longest_draft() const {
        for (Index layer = 0; layer < state_.layers(); ++layer)
            if (state_.cache(layer).rolls()) return options_.rewind;
        return no_window;
    }

    /// Computes `tokens`. Throws Error, before anything is changed, for one outside the vocabulary and where there is
    /// no room; Cancelled where `stop` asks for it between two chunks, of which the finished ones stay.
    void append(std::span<const Token> tokens, const std::stop_token& stop = {}) {
        check(tokens);
        while (!tokens.empty()) {
            if (stop.stop_requested())
                throw Cancelled(
                    concat("cancelled at position ", position(), ", before ", tokens.size(), " more tokens"));
            const auto count = std::min(static_cast<Index>(tokens.size()), options_.chunk);
            const bool last = count == static_cast<Index>(tokens.size());
            take(tokens.first(static_cast<std::size_t>(count)), last ? logits_.rows() : MatrixView<A>());
            if (last) logits_.hold(position());
            tokens = tokens.subspan(static_cast<std::size_t>(count));
        }
    }

    /// Adds a token that will be computed with what follows it, or when the logits are asked for. Throws as append.
    void push(Token token) {
        const std::span<const Token> tokens(&token, 1);
        check(tokens);
        if (pending() > 0) compute({});
        if (!logits_.drafted(token, position())) drop_draft();
        history_.append(tokens);
    }

    /// Whether `logits` has nothing to compute.
    [[nodiscard]] bool has_logits() const { return logits_.holds(position()); }

    /// The logits [vocab_size] of the token that follows; computes what `push` or a rewind left to compute. Valid until
    /// the session changes. Throws Error for an empty session.
    ///
    /// Where something is to compute, `draft`, tokens that may follow, is computed in the same pass (speculative
    /// decoding, arXiv:2211.17192): as long as they are pushed, one by one, there is nothing left to compute. They are
    /// no part of the session before, and the first that is not pushed leaves no trace of them. Throws Error, before
    /// anything is changed, for more than longest_draft(), and as append.
    [[nodiscard]] std::span<const A> logits(std::span<const Token> draft = {}) {
        require_tokens();
        if (!has_logits()) {
            const Index newest = position();
            const auto drafted = static_cast<Index>(draft.size());
            require(drafted <= longest_draft(), "a draft has ", drafted, " tokens, but rewind is ", options_.rewind);
            check(draft);
            if (pending() == 0) state_.rewind_to(newest - 1);  // the newest token can always be computed again
            take(draft, logits_.rows(drafted));
            history_.rewind_to(newest);
            logits_.hold(newest, draft);
        }
        return logits_.at(position());
    }

    /// Computes what `logits()` of these sessions would have to compute, in one pass, which reads the weights once for
    /// all of them. They may stand at any positions; those with nothing to compute are passed over. Throws Error,
    /// before anything is changed, for an empty session, one that is given twice, and models that are no copies of each
    /// other.
    static void compute_logits(std::span<Session* const> sessions) {
        std::vector<Session*> unfinished;
        for (Session* session : sessions) {
            session->require_tokens();
            require(session->model_->shares_weights_with(*sessions.front()->model_),
                    "sessions over different models were to be computed in one pass");
            require(std::count(sessions.begin(), sessions.end(), session) == 1,
                    "a session was given twice to be computed in one pass");
            if (!session->has_logits()) unfinished.push_back(session);
        }
        if (unfinished.empty()) return;
        std::vector<Chunk> chunks;
        for (Session* session : unfinished) chunks.push_back(session->uncomputed());
        try {
            unfinished.front()->model_->forward(std::span<const Chunk>(chunks));
        } catch (...) {
            for (Session* session : unfinished) session->recover(session->position() - 1);
            throw;
        }
        for (Session* session : unfinished) session->logits_.hold(session->position());
    }

    /// The logits that the newest token was chosen from. Throws Error unless they are still held: after `logits()` and
    /// then `push`, as `generate` does, and before anything else.
    [[nodiscard]] std::span<const A> logits_before_last() const {
        require(logits_.holds(position() - 1),
                "the logits before the newest token are held no longer: the session has moved on");
        return logits_.at(position() - 1);
    }

    /// The tokens that follow `prompt`, lazily: see Generation. An empty prompt continues the session. Throws Error for
    /// options outside their range and where there is nothing to continue.
    [[nodiscard]] Generation<Session> generate(std::span<const Token> prompt, GenerateOptions options = {}) & {
        return Generation<Session>(*this, prompt, std::move(options));
    }
    Generation<Session> generate(std::span<const Token> prompt, GenerateOptions options = {}) && = delete;

    /// The same as calls of on_token(token), or on_token(token, generation) for log-probabilities; where that returns
    /// false, the generation is cancelled. Returns why it ended.
    template <class OnToken>
    StopReason generate(std::span<const Token> prompt, GenerateOptions options, OnToken&& on_token) {
        Generation<Session> generation(*this, prompt, std::move(options));
        while (generation.next()) {
            bool more = true;
            if constexpr (std::invocable<OnToken&, Token, Generation<Session>&>)
                more = goes_on(on_token, generation.token(), generation);
            else
                more = goes_on(on_token, generation.token());
            if (!more) return StopReason::cancelled;
        }
        return generation.reason();
    }

    /// Appends `tokens` and returns the log-probability of each, given all before it. Holds the logits of a few tokens
    /// at a time. Throws as append, and Error for unusable logits.
    Scores score(std::span<const Token> tokens, const std::stop_token& stop = {}) {
        constexpr Index most_rows = 64;
        const Index vocab = model_->config().vocab_size;
        check(tokens);
        Scores scores;
        if (tokens.empty()) return scores;
        scores.logprobs.reserve(tokens.size());
        if (position() > 0) scores.logprobs.push_back(log_probability(logits(), tokens.front()));
        const Index rows = std::min({most_rows, options_.chunk, static_cast<Index>(tokens.size())});
        std::vector<A> memory(static_cast<std::size_t>(rows * vocab));
        while (!tokens.empty()) {
            if (stop.stop_requested()) throw Cancelled(concat("cancelled at position ", position(), " while scoring"));
            const auto count = std::min(static_cast<std::size_t>(rows), tokens.size());
            const MatrixView<A> chunk(memory.data(), static_cast<Index>(count), vocab);
            take(tokens.first(count), chunk);
            std::copy_n(chunk.row(chunk.rows() - 1), vocab, logits_.rows().row(0));
            logits_.hold(position());
            for (std::size_t i = 0; i < std::min(count, tokens.size() - 1); ++i) {
                const std::span<const A> row(chunk.row(static_cast<Index>(i)), static_cast<std::size_t>(vocab));
                scores.logprobs.push_back(log_probability(row, tokens[i + 1]));
            }
            tokens = tokens.subspan(count);
        }
        return scores;
    }

    /// Whether the sequence can go on from `position` exactly as if nothing had followed it.
    [[nodiscard]] bool can_rewind_to(Index position) const {
        if (position == this->position()) return true;
        const Index newest = std::max<Index>(position - 1, 0);
        return position >= 0 && position < this->position() && newest >= history_.begin() &&
               state_.can_rewind_to(newest);
    }

    /// The first position that can be rewound to; later ones can too.
    [[nodiscard]] Index first_rewind() const {
        Index first = history_.begin() > 0 ? history_.begin() + 1 : 0;
        for (Index layer = 0; layer < state_.layers(); ++layer) {
            const auto& cache = state_.cache(layer);
            if (cache.first_resident() > 0) first = std::max(first, cache.first_resident() + cache.shape().window);
        }
        return first;
    }

    /// Forgets the tokens from `position` on. Throws Error, and changes nothing, where can_rewind_to does not hold.
    void rewind_to(Index position) {
        require(can_rewind_to(position), "cannot rewind to position ", position, ": the session is at ",
                this->position(), " and can go back to ", first_rewind());
        if (position == this->position()) return;
        state_.rewind_to(std::max<Index>(position - 1, 0));  // its newest token gives the logits
        history_.rewind_to(position);
        logits_.clear();
    }

    /// Forgets all tokens; keeps the memory.
    void reset() {
        state_.clear();
        history_.reset();
        logits_.clear();
    }

    /// Writes all that the sequence is, to be restored by a session over the same model, of the same types, context and
    /// rewind, on a machine of the same byte order; it then continues with the same bits. The numbers of the model's
    /// config are written to recognise it, its weights are not. Throws Error where writing fails.
    void save(std::ostream& out) const {
        const auto tokens = history_.last(tokens_kept());
        SavedSession::write_header(out, fingerprint());
        SavedSession::write(
            out, std::array<Index, 4>{position(), pending(), has_logits(), static_cast<Index>(tokens.size())});
        SavedSession::write(out, tokens);
        SavedSession::write(out, has_logits() ? logits_.at(position()) : logits_.front());
        state_.save(out);
        SavedSession::write_end(out);
    }

    /// Reads what `save` wrote. Throws Error where it is damaged, ends early, or is of another model, type or geometry;
    /// the session is empty then. Memory does not depend on what the input says.
    void restore(std::istream& in) {
        reset();
        try {
            read(in);
        } catch (...) {
            reset();
            throw;
        }
    }

    /// The same with a file. An existing one is replaced by a complete one only.
    void save(const std::filesystem::path& file) const {
        SavedSession::save_file(file, [this](std::ostream& out) { save(out); });
    }
    void restore(const std::filesystem::path& file) {
        SavedSession::restore_file(file, [this](std::istream& in) {
            restore(in);
            if (in.peek() == std::istream::traits_type::eof()) return;
            reset();
            fail("the file goes on after the end of the session");
        });
    }

  private:
    using State = typename Model::template State<C>;
    using Chunk = typename Model::template SequenceChunk<C>;

    void require_tokens() const {
        require(position() > 0, "the session is empty: there are no logits before the first token");
    }

    void check(std::span<const Token> tokens) const {
        const Index vocab = model_->config().vocab_size;
        for (const Token token : tokens)
            require(token >= 0 && token < vocab, "token ", token, " is outside the vocabulary of ", vocab);
        require(has_room_for(static_cast<Index>(tokens.size())), "the context is full: ", position(),
                " positions are taken and ", tokens.size(), " more were given");
    }

    /// Enough to compute the newest token of any rewound sequence again, and to know those before it.
    [[nodiscard]] Index tokens_kept() const {
        Index slots = 0;
        for (Index layer = 0; layer < state_.layers(); ++layer) slots = std::max(slots, state_.cache(layer).capacity());
        return slots + 1 + GenerateOptions::max_repetition_window;
    }

    /// Tokens that are in the history but not computed: none, or the newest. Negative where the draft was computed, the
    /// rest of which is not in the history.
    [[nodiscard]] Index pending() const { return position() - state_.position(); }

    void drop_draft() {
        logits_.drop_draft(position());
        if (pending() < 0) state_.rewind_to(position());
    }

    /// Adds tokens to the history and computes them. Where that fails, they are not part of the session.
    void take(std::span<const Token> tokens, MatrixView<A> logits) {
        drop_draft();
        const Index before = position();
        history_.append(tokens);
        try {
            compute(logits);
        } catch (...) {
            history_.rewind_to(std::min(before, position()));
            throw;
        }
    }

    /// Computes the tokens of the history that are not, with the logits of the last logits.rows() of them.
    void compute(MatrixView<A> logits) {
        const Index first = state_.position();
        try {
            model_->forward(history_.from(first), state_, logits);
        } catch (...) {
            recover(first);
            throw;
        }
    }

    /// The newest token, which can always be computed again, and where its logits go.
    [[nodiscard]] Chunk uncomputed() {
        drop_draft();
        if (pending() == 0) state_.rewind_to(position() - 1);
        return {history_.from(position() - 1), &state_, logits_.rows()};
    }

    /// Goes back to where a pass that failed began, out of memory: some layers may have appended to their caches.
    void recover(Index first) {
        if (state_.can_rewind_to(first))
            state_.rewind_to(first);
        else
            reset();
    }

    [[nodiscard]] std::string fingerprint() const {
        return SavedSession::fingerprint(model_->config(), ScalarTraits<typename Model::WeightScalar>::name,
                                         ScalarTraits<C>::name);
    }

    void read(std::istream& in) {
        constexpr Index most_positions = Index{1} << 52;  // far from where sums of positions overflow
        SavedSession::read_header(in, fingerprint());
        std::array<Index, 4> numbers{};
        SavedSession::read<Index>(in, numbers);
        const auto [position, pending, has_logits, kept] = numbers;
        require(0 <= position && position <= most_positions && -most_positions <= pending &&
                    pending <= std::min<Index>(position, 1) && 0 <= has_logits &&
                    has_logits <= (pending <= 0 ? 1 : 0) && std::min<Index>(position, 1) <= kept &&
                    kept <= std::min(position, tokens_kept()),
                "the saved session is damaged: position ", position, " with ", pending, " tokens to compute, ",
                has_logits, " rows of logits and ", kept, " tokens");
        std::vector<Token> tokens(static_cast<std::size_t>(kept));
        SavedSession::read<Token>(in, tokens);
        SavedSession::read<A>(in, {logits_.rows().row(0), static_cast<std::size_t>(model_->config().vocab_size)});
        state_.restore(in);
        SavedSession::read_end(in);
        const Index computed = std::min(position, position - pending);  // what follows was a draft
        require(state_.position() == position - pending && state_.can_rewind_to(computed),
                "the saved session is damaged: its caches end at position ", state_.position(), ", expected ",
                position - pending);
        state_.rewind_to(computed);
        for (const Token token : tokens)
            require(token >= 0 && token < model_->config().vocab_size, "the saved session has token ", token,
                    ", which is outside the vocabulary of ", model_->config().vocab_size);
        history_.reset(tokens, position);
        if (has_logits != 0) logits_.hold(position);
    }

    std::shared_ptr<const Model> model_;
    SessionOptions options_;
    State state_;
    TokenHistory history_;
    LogitRows<A> logits_;
};

}  // namespace mistral

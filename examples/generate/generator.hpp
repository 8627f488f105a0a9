#pragma once

#include <mistral/mistral.hpp>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "options.hpp"
#include "output.hpp"
#include "report.hpp"
#include "run.hpp"
#include "terminal.hpp"
#include "text.hpp"

namespace generator {

/// The device that the command line asks for.
template <class D>
D make_device(const Options& options);
template <>
inline mistral::Cpu make_device(const Options& options) {
    return mistral::Cpu(options.threads);
}

/// A model of weights S on a device D with the one sequence that it works on, whose cache is of C.
template <mistral::Scalar S, mistral::CacheScalar C, class D>
class Generator {
  public:
    /// Throws Cancelled after Ctrl-C.
    explicit Generator(const Options& options)
        : options_(options),
          tokenizer_(load_tokenizer(options.model)),
          session_(load(options), {.context = options.context.value_or(mistral::no_window),
                                   .rewind = options.sampling.draft_tokens,
                                   .chunk = chunk}),
          output_(tokenizer_, options.json) {
        report_.load_seconds = seconds_since(start_);
        report_.cache_bytes = session_.cache_bytes();
    }

    /// Continues the prompt.
    void complete() {
        const auto prompt = encode(tokenizer_, options_.prompt);
        if (options_.echo) output_.text(options_.prompt);
        mistral::Detokenizer detokenizer(tokenizer_);
        for (const mistral::Token token : prompt) static_cast<void>(detokenizer.push(token));
        report_.reason = write(prompt, std::move(detokenizer)).reason;
        output_.end(is_terminal(Stream::output));
    }

    /// Answers one message after the other, until the input ends.
    void chat() {
        std::vector<mistral::Message> messages;
        if (!options_.system.empty()) messages.push_back({.role = mistral::Role::system, .content = options_.system});
        std::string question = options_.prompt;
        while (!question.empty() || ask(question)) {
            messages.push_back({.role = mistral::Role::user, .content = std::exchange(question, {})});
            const Answer answer = reply(messages);
            output_.end(true);
            if (!options_.quiet) note(answer.reason);
            if (answer.text.empty())
                messages.pop_back();  // templates know no empty answer
            else
                messages.push_back({.role = mistral::Role::assistant, .content = answer.text});
        }
    }

    const Report& report() const { return report_; }

  private:
    using Model = mistral::MistralModel<S, D>;

    static constexpr Index chunk = 128;  // Ctrl-C is seen between chunks of the prompt

    struct Answer {
        std::string text;
        std::vector<mistral::Token> tokens;  ///< with a stop token
        mistral::StopReason reason = mistral::StopReason::none;
    };

    static Model load(const Options& options) {
        const Interruptible interruptible;
        ProgressBar bar("loading", !options.quiet);
        mistral::LoadOptions load;
        if (options.window) load.windows = {*options.window};
        load.progress = [&](const mistral::LoadProgress& progress) {
            bar.show(progress.tensors_done, progress.tensors);
        };
        load.stop = interruptible.token();
        load.packed_file = options.cache;
        auto model = Model::load(options.model, make_device<D>(options), load);
        if (interruptible.stopped()) throw mistral::Cancelled("loading was cancelled");
        return model;
    }

    /// Generates after `prompt`, and hands on what `detokenizer` makes of it.
    Answer write(const std::vector<mistral::Token>& prompt, mistral::Detokenizer detokenizer) {
        const Interruptible interruptible;
        auto options = options_.sampling;
        options.stop = interruptible.token();
        mistral::StopStrings stops(std::exchange(options.stop_strings, {}));
        Answer answer;
        const auto hand_on = [&](const std::string& piece) {
            answer.text += piece;
            output_.text(piece);
        };

        auto start = Clock::now();
        auto generation = session_.generate(prompt, std::move(options));
        while (!stops.found() && generation.next()) {
            count(generation.generated(), prompt, start);
            output_.token(generation.token(), generation);
            answer.tokens.push_back(generation.token());
            hand_on(stops.push(detokenizer.push(generation.token())));
        }
        report_.drafted += generation.drafted();
        report_.accepted += generation.accepted();
        hand_on(stops.push(detokenizer.finish()));
        hand_on(stops.finish());
        answer.reason = stops.found() ? mistral::StopReason::stop_string : generation.reason();
        if (answer.reason == mistral::StopReason::stop_token) answer.tokens.push_back(generation.token());
        return answer;
    }

    void count(Index generated, const std::vector<mistral::Token>& prompt, Clock::time_point& start) {
        const bool is_first = generated == 1;
        (is_first ? report_.prompt_seconds : report_.token_seconds) += seconds_since(start);
        (is_first ? report_.prompt_tokens : report_.tokens) += is_first ? static_cast<Index>(prompt.size()) : 1;
        start = Clock::now();
    }

    /// Reads the next message that is not empty.
    static bool ask(std::string& message) {
        const bool prompts = is_terminal(Stream::input) && is_terminal(Stream::output);
        while (message.empty()) {
            if (prompts) std::cout << "> " << std::flush;
            if (!std::getline(std::cin, message)) {
                if (prompts) std::cout << std::endl;
                return false;
            }
        }
        return true;
    }

    /// The answer to the last message. Of the conversation's tokens only those are computed that the session does not
    /// hold yet; all of them where it differs from them too far back for its ring.
    Answer reply(const std::vector<mistral::Message>& messages) {
        auto tokens = encode(tokenizer_, messages);
        const auto same = std::ranges::mismatch(tokens, held_).in1 - tokens.begin();
        if (session_.can_rewind_to(same))
            session_.rewind_to(same);
        else
            session_.reset();
        Answer answer = write({tokens.begin() + session_.position(), tokens.end()}, mistral::Detokenizer(tokenizer_));
        held_ = std::move(tokens);
        held_.insert(held_.end(), answer.tokens.begin(), answer.tokens.end());
        held_.resize(static_cast<std::size_t>(session_.position()));  // shorter where the prompt was interrupted
        return answer;
    }

    /// Says why an answer ends where that may not be clear.
    static void note(mistral::StopReason reason) {
        using mistral::StopReason;
        if (reason == StopReason::max_tokens) std::cerr << "[--max-tokens ends the answer here]" << std::endl;
        if (reason == StopReason::context_full) std::cerr << "[the context is full]" << std::endl;
        if (reason == StopReason::cancelled) std::cerr << "[interrupted]" << std::endl;
    }

    Clock::time_point start_ = Clock::now();
    const Options& options_;
    mistral::Tokenizer tokenizer_;
    mistral::Session<Model, C> session_;
    std::vector<mistral::Token> held_;  // in a conversation: the tokens of the session
    Output output_;
    Report report_;
};

template <mistral::Scalar S, mistral::CacheScalar C, class D>
int run(const Options& options) {
    Generator<S, C, D> generator(options);
    if (options.chat)
        generator.chat();
    else
        generator.complete();
    if (!options.quiet) generator.report().print(std::cerr);
    return generator.report().reason == mistral::StopReason::cancelled ? interrupted_status : EXIT_SUCCESS;
}

}  // namespace generator

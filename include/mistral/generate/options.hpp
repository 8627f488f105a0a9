#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>
#include <mistral/base/window.hpp>

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

namespace mistral {

/// What a session holds and how it computes.
struct SessionOptions {
    /// Positions that layers without a window can hold: 1 or more; by default as many as the model was trained for.
    /// They set the memory. A layer with a window no larger than this goes on for ever.
    Index context = no_window;
    /// Tokens that can always be taken back: 0 or more. Each costs a position's memory. Drafts are taken back too:
    /// until as many tokens follow them, fewer of those before can be.
    Index rewind = 0;
    /// Tokens of a prompt computed at once, 1 to `max_chunk`: more are faster, up to a point, and take more scratch
    /// memory. The results do not depend on it.
    Index chunk = 512;

    static constexpr Index max_chunk = 65536;
};

/// How a generation chooses its tokens and when it ends. A flat aggregate:
///
///     session.generate(prompt, {.max_tokens = 100, .temperature = 0.7f, .top_p = 0.9f})
struct GenerateOptions {
    /// Tokens to generate at most, 0 or more.
    Index max_tokens = 256;

    /// Logits are divided by it: 0 always takes the most likely token (greedy), 1 samples from the model's own
    /// distribution, more flattens it. 0 or more, finite.
    float temperature = 0;
    /// Only the `top_k` most likely tokens are sampled; 0 is off. 0 or more.
    Index top_k = 0;
    /// In the order of probability, a token is sampled while the mass before it is <= top_p, as in Mistral's reference
    /// (nucleus sampling, arXiv:1904.09751); 1 is off. 0 to 1.
    float top_p = 1;
    /// Only tokens with at least `min_p` times the probability of the most likely one are sampled (arXiv:2407.01082);
    /// 0 is off. 0 to 1.
    float min_p = 0;

    /// Positive logits of recent tokens are divided by it, negative ones multiplied, once however often a token
    /// occurred (CTRL, arXiv:1909.05858, as in transformers); 1 is off. 0.01 to 100.
    float repetition_penalty = 1;
    /// Tokens back, prompt included, that count as recent. 0 to `max_repetition_window`.
    Index repetition_window = 64;

    /// The same seed, options and logits give the same tokens, everywhere, unless a random number falls between two
    /// tokens to within what processors round differently, some 1e-15.
    std::uint64_t seed = 0;

    /// Tokens that end the generation besides the model's own. Within the vocabulary.
    std::vector<Token> stop_tokens = {};
    /// Goes on after the model's end-of-sequence tokens.
    bool ignore_eos = false;
    /// Texts that end the generation, none of them empty. For `generate_text` only: tokens alone have no text.
    std::vector<std::string> stop_strings = {};

    /// Tokens drafted at most for each forward pass, from where the text so far said the same before (see
    /// PromptLookup); 0 is off. The tokens are the same, and fewer passes give them where a text repeats itself. 0 to
    /// `max_draft_tokens`; with layers that roll, at most SessionOptions::rewind.
    Index draft_tokens = 0;

    /// Alternatives reported with each token: the so many most likely ones and their log-probabilities.
    /// 0 to `max_logprobs`.
    Index logprobs = 0;

    /// Called for each token on its logits [vocab_size] after the repetition penalty, to change them at will: a bias, a
    /// grammar. -infinity forbids a token; NaN and +infinity are refused.
    std::function<void(std::span<float>)> logit_hook = {};

    /// Ends the generation between two tokens, or two chunks of the prompt.
    std::stop_token stop = {};

    static constexpr Index max_repetition_window = 4096;
    static constexpr Index max_draft_tokens = 16;
    static constexpr Index max_logprobs = 1024;
};

/// Throws Error, with the name and value, for an option outside its range. Returns the options.
inline const SessionOptions& validated(const SessionOptions& options) {
    require(options.context >= 1, "context is ", options.context, ", expected 1 or more");
    require(options.rewind >= 0, "rewind is ", options.rewind, ", expected 0 or more");
    require(1 <= options.chunk && options.chunk <= SessionOptions::max_chunk, "chunk is ", options.chunk,
            ", expected 1 to ", SessionOptions::max_chunk);
    return options;
}

/// Throws Error likewise.
inline void validate(const GenerateOptions& options) {
    // Written as !(lo <= x && x <= hi) so that a NaN fails too.
    const auto within = [](const char* name, auto value, auto low, auto high) {
        if (!(low <= value && value <= high)) fail(name, " is ", value, ", expected ", low, " to ", high);
    };
    const auto at_least_zero = [](const char* name, Index value) {
        require(value >= 0, name, " is ", value, ", expected 0 or more");
    };
    at_least_zero("max_tokens", options.max_tokens);
    if (!(0 <= options.temperature && options.temperature <= std::numeric_limits<float>::max()))
        fail("temperature is ", options.temperature, ", expected a finite number, 0 or more");
    at_least_zero("top_k", options.top_k);
    within("top_p", options.top_p, 0.0f, 1.0f);
    within("min_p", options.min_p, 0.0f, 1.0f);
    within("repetition_penalty", options.repetition_penalty, 0.01f, 100.0f);
    within("repetition_window", options.repetition_window, Index{0}, GenerateOptions::max_repetition_window);
    within("draft_tokens", options.draft_tokens, Index{0}, GenerateOptions::max_draft_tokens);
    within("logprobs", options.logprobs, Index{0}, GenerateOptions::max_logprobs);
}

/// The same for the options that depend on the vocabulary.
inline void validate(const GenerateOptions& options, Index vocab_size) {
    validate(options);
    for (const Token token : options.stop_tokens)
        require(token >= 0 && token < vocab_size, "stop_tokens has ", token, ", which is outside the vocabulary of ",
                vocab_size);
}

}  // namespace mistral

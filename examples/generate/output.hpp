#pragma once

#include <mistral/base/types.hpp>
#include <mistral/generate/log_probability.hpp>
#include <mistral/text/tokenizer.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace generator {

/// Text as it is made, or one JSON object per token.
class Output {
  public:
    Output(const mistral::Tokenizer& tokenizer, bool json) : tokenizer_(tokenizer), json_(json) {}

    /// A token was made; `generation` knows its probability.
    template <class Generation>
    void token(mistral::Token id, Generation& generation) {
        if (!json_) return;
        flush();
        const std::span<const mistral::TokenLogprob> alternatives = generation.alternatives();
        object_ = {.id = id,
                   .text = {},
                   .logprob = generation.logprob(),
                   .alternatives = {alternatives.begin(), alternatives.end()}};
    }

    /// Text has become certain: whole characters, with the last token or at the end.
    void text(std::string_view text);

    /// An answer is complete.
    void end(bool with_newline);

  private:
    struct Object {
        mistral::Token id;
        std::string text;
        double logprob;
        std::vector<mistral::TokenLogprob> alternatives;
    };

    /// An object waits for what the next token, or the end, adds to its text.
    void flush();

    const mistral::Tokenizer& tokenizer_;
    bool json_;
    std::optional<Object> object_;
    bool line_ended_ = true;
};

}  // namespace generator

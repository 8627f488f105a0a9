#pragma once

#include <mistral/base/types.hpp>
#include <mistral/text/tokenizer.hpp>

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace generator {

/// Text as it is made, or one JSON object per token.
class Output {
  public:
    Output(const mistral::Tokenizer& tokenizer, bool json) : tokenizer_(tokenizer), json_(json) {}

    /// A token was made; `generation` knows its probability.
    template <class Generation>
    void token(mistral::Token token, Generation& generation) {
        if (!json_) return;
        flush();
        object_ = {{"id", token}, {"text", ""}, {"logprob", generation.logprob()}};
        for (const auto& [id, logprob] : generation.alternatives())
            object_["alternatives"].push_back({{"id", id}, {"text", tokenizer_.piece(id)}, {"logprob", logprob}});
    }

    /// Text has become certain: whole characters, with the last token or at the end.
    void text(std::string_view text) {
        if (json_)
            object_["text"].get_ref<std::string&>() += text;
        else
            std::cout << text << std::flush;
        if (!text.empty()) line_ended_ = text.back() == '\n';
    }

    /// An answer is complete.
    void end(bool with_newline) {
        flush();
        if (with_newline && !json_ && !line_ended_) std::cout << std::endl;
        line_ended_ = true;
    }

  private:
    /// An object waits for what the next token, or the end, adds to its text. Alternatives may be a part of a character
    /// only, which becomes U+FFFD.
    void flush() {
        using Handler = Json::error_handler_t;
        if (!object_.is_null()) std::cout << object_.dump(-1, ' ', false, Handler::replace) << std::endl;
        object_ = nullptr;
    }

    using Json = nlohmann::ordered_json;

    const mistral::Tokenizer& tokenizer_;
    bool json_;
    Json object_;
    bool line_ended_ = true;
};

}  // namespace generator

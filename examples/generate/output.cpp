#include "output.hpp"

#include <iostream>
#include <nlohmann/json.hpp>

namespace generator {

void Output::text(std::string_view text) {
    if (text.empty()) return;
    if (json_)
        object_.value().text += text;
    else
        std::cout << text << std::flush;
    line_ended_ = text.back() == '\n';
}

void Output::end(bool with_newline) {
    flush();
    if (with_newline && !json_ && !line_ended_) std::cout << std::endl;
    line_ended_ = true;
}

void Output::flush() {
    if (!object_) return;
    using Json = nlohmann::ordered_json;
    Json object = {{"id", object_->id}, {"text", object_->text}, {"logprob", object_->logprob}};
    for (const auto& [id, logprob] : object_->alternatives)
        object["alternatives"].push_back({{"id", id}, {"text", tokenizer_.piece(id)}, {"logprob", logprob}});
    // Alternatives may be a part of a character only, which becomes U+FFFD.
    std::cout << object.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
    object_.reset();
}

}  // namespace generator

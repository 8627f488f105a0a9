#include "text.hpp"

#include <mistral/text/chat.hpp>

namespace generator {

mistral::Tokenizer load_tokenizer(const std::string& model) {
    return mistral::Tokenizer::load(model);
}

std::vector<mistral::Token> encode(const mistral::Tokenizer& tokenizer, const std::string& text) {
    return tokenizer.encode(text);
}

std::vector<mistral::Token> encode(const mistral::Tokenizer& tokenizer, const std::vector<mistral::Message>& messages) {
    return encode_chat(tokenizer, chat_template_of(tokenizer), messages);
}

}  // namespace generator

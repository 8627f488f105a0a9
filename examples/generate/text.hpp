#pragma once

#include <mistral/base/types.hpp>
#include <mistral/text/chat_message.hpp>
#include <mistral/text/tokenizer.hpp>

#include <string>
#include <vector>

namespace generator {

// Texts as tokens, which text.cpp compiles once for models of all types.

mistral::Tokenizer load_tokenizer(const std::string& model);

std::vector<mistral::Token> encode(const mistral::Tokenizer& tokenizer, const std::string& text);

/// A conversation, in the template of the model whose tokenizer it is.
std::vector<mistral::Token> encode(const mistral::Tokenizer& tokenizer, const std::vector<mistral::Message>& messages);

}  // namespace generator

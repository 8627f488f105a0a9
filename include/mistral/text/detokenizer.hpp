#pragma once

#include <mistral/base/types.hpp>
#include <mistral/text/piece_decoder.hpp>
#include <mistral/text/tokenizer.hpp>

#include <string>
#include <utility>

namespace mistral {

/// Decodes a sequence while it grows. What `push` and `finish` return, put together, is what Tokenizer::decode makes of
/// the whole sequence, and each part ends between two characters.
class Detokenizer {
  public:
    explicit Detokenizer(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

    /// The text that is certain now that `token` has come. Empty while a character is incomplete. Throws Error for a
    /// number that is no token.
    [[nodiscard]] std::string push(Token token) {
        std::string text;
        tokenizer_.require_token(token);
        decoder_.push(tokenizer_.vocabulary(), token, text);
        return text;
    }

    /// The rest of the text, one U+FFFD for each byte of a character that never ended. The next token starts a new
    /// text.
    [[nodiscard]] std::string finish() {
        std::string text;
        decoder_.finish(text);
        decoder_ = {};
        return text;
    }

  private:
    Tokenizer tokenizer_;
    PieceDecoder decoder_;
};

}  // namespace mistral

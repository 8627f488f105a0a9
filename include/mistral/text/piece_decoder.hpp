#pragma once

#include <mistral/base/types.hpp>
#include <mistral/base/utf8.hpp>
#include <mistral/text/vocabulary.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace mistral {

/// Turns tokens into text one by one, as SentencePiece decodes them: the blank that encoding put before the text is
/// dropped, control pieces give nothing, and bytes that make no character become U+FFFD, one for each.
class PieceDecoder {
  public:
    /// Appends to `text` what is certain once `token` has come: whole characters.
    void push(const Vocabulary& vocabulary, Token token, std::string& text) {
        const PieceType type = vocabulary.model().type(token);
        if (type == PieceType::byte) {
            bytes_ += vocabulary.surface(token);
            take_characters(text);
            return;
        }
        finish(text);
        std::string_view surface = vocabulary.surface(token);
        if (at_start_ && starts_with_droppable_blank(vocabulary, token)) {
            surface.remove_prefix(1);
            at_start_ = vocabulary.model().whitespace.remove_extra_whitespaces;
        }
        append(surface, text);
    }

    /// Appends what is left when no token follows: the bytes of a character that never ended.
    void finish(std::string& text) {
        for (std::size_t i = 0; i < bytes_.size(); ++i) append(replacement_character, text);
        bytes_.clear();
    }

  private:
    static bool starts_with_droppable_blank(const Vocabulary& vocabulary, Token token) {
        const SentencePieceModel& model = vocabulary.model();
        return (model.whitespace.add_dummy_prefix || model.whitespace.remove_extra_whitespaces) &&
               model.type(token) != PieceType::control && model.type(token) != PieceType::unknown &&
               model.pieces[token].starts_with(piece_blank);
    }

    /// Takes from the waiting bytes all but the start of a character that may still be completed.
    void take_characters(std::string& text) {
        std::string_view rest = bytes_;
        while (!rest.empty()) {
            const std::size_t length = Utf8::length(rest);
            if (length == 0 && Utf8::is_prefix(rest)) break;
            append(length > 0 ? rest.substr(0, length) : replacement_character, text);
            rest.remove_prefix(length > 0 ? length : 1);
        }
        bytes_.erase(0, bytes_.size() - rest.size());
    }

    void append(std::string_view surface, std::string& text) {
        text += surface;
        at_start_ = at_start_ && surface.empty();
    }

    std::string bytes_;     // at most three, of a character that is not complete
    bool at_start_ = true;  // nothing has come out, nor has the first blank been dropped
};

}  // namespace mistral

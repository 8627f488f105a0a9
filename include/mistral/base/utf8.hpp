#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mistral {

/// What stands for a byte that belongs to no character: U+FFFD.
inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";

/// UTF-8 as Unicode 15, table 3-7 defines it: no overlong forms, no surrogates, nothing beyond U+10FFFF.
struct Utf8 {
    /// Bytes of the well-formed character that `text` starts with, 0 where there is none.
    [[nodiscard]] static std::size_t length(std::string_view text) {
        if (text.empty()) return 0;
        const std::size_t length = expected_length(text);
        return length <= text.size() && is_prefix(text.substr(0, length)) ? length : 0;
    }

    /// Bytes from the start of `text` to the next character: 1 for a byte that belongs to none.
    [[nodiscard]] static std::size_t step(std::string_view text) {
        const std::size_t size = length(text);
        return size > 0 ? size : 1;
    }

    /// Whether `text`, of one to four bytes, is a well-formed character or the start of one.
    [[nodiscard]] static bool is_prefix(std::string_view text) {
        const std::size_t length = expected_length(text);
        if (length == 0 || text.size() > length) return false;
        for (std::size_t i = 1; i < text.size(); ++i)
            if ((byte(text, i) & 0xC0) != 0x80) return false;
        return text.size() < 2 || second_byte_fits(byte(text, 0), byte(text, 1));
    }

    /// Whether all of `text` is well-formed.
    [[nodiscard]] static bool is_well_formed(std::string_view text) {
        while (!text.empty()) {
            const std::size_t size = length(text);
            if (size == 0) return false;
            text.remove_prefix(size);
        }
        return true;
    }

    /// Appends the character `code_point`, which is no surrogate and at most U+10FFFF.
    static void append(std::string& text, char32_t code_point) {
        const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (code_point >> shift & 0x3F)); };
        if (code_point < 0x80) {
            text += static_cast<char>(code_point);
        } else if (code_point < 0x800) {
            text += static_cast<char>(0xC0 | code_point >> 6);
            tail(0);
        } else if (code_point < 0x10000) {
            text += static_cast<char>(0xE0 | code_point >> 12);
            tail(6), tail(0);
        } else {
            text += static_cast<char>(0xF0 | code_point >> 18);
            tail(12), tail(6), tail(0);
        }
    }

  private:
    static unsigned byte(std::string_view text, std::size_t i) { return static_cast<unsigned char>(text[i]); }

    /// Length of the character that the first byte announces, 0 where it announces none.
    static std::size_t expected_length(std::string_view text) {
        const unsigned first = text.empty() ? 0xFFu : byte(text, 0);
        if (first < 0x80) return 1;
        if (first < 0xC2) return 0;
        if (first < 0xE0) return 2;
        if (first < 0xF0) return 3;
        return first < 0xF5 ? 4 : 0;
    }

    static bool second_byte_fits(unsigned first, unsigned second) {
        switch (first) {
            case 0xE0:
                return second >= 0xA0;  // below: overlong
            case 0xED:
                return second < 0xA0;  // above: surrogates
            case 0xF0:
                return second >= 0x90;  // below: overlong
            case 0xF4:
                return second < 0x90;  // above: beyond U+10FFFF
            default:
                return true;
        }
    }
};

}  // namespace mistral

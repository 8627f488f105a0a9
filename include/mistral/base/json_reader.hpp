#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/quote.hpp>
#include <mistral/base/utf8.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace mistral {

/// A text is no JSON. The message says where, what was found and what was expected.
class JsonError : public Error {
  public:
    using Error::Error;
};

/// A step through a JSON text.
struct JsonToken {
    enum class Kind { null, boolean, number, string, key, open_object, close_object, open_array, close_array, end };

    Kind kind = Kind::end;
    std::string text{};  ///< a string or key, decoded to UTF-8; null, true, false and numbers as they are written
};

/// Reads a JSON text in UTF-8 as RFC 8259 defines it, token by token. A byte order mark is skipped, which the RFC
/// leaves open. Lone surrogates are refused, which it leaves open too: there is no UTF-8 for them. Numbers may be of
/// any size.
///
/// Keeps one byte per level of nesting. How deep that may be is for those to say who keep more: the text may be
/// anybody's.
class JsonReader {
  public:
    /// `text` must outlive the reader. `name` says in messages what it is.
    JsonReader(std::string_view text, std::string name) : text_(text), name_(std::move(name)) {
        if (text.starts_with("\xEF\xBB\xBF")) position_ = 3;
    }

    /// The next token, of which the last is the end. Throws JsonError where the text is no JSON.
    [[nodiscard]] JsonToken next() {
        skip_blanks();
        switch (state_) {
            case State::value:
                return value();
            case State::opened:
                if (take(closing_.back())) return close();
                break;
            case State::value_ended:
                if (closing_.empty()) return end();
                if (take(closing_.back())) return close();
                if (!take(',')) refuse(closing_.back() == '}' ? "\",\" or \"}\"" : "\",\" or \"]\"");
                skip_blanks();
        }
        return closing_.back() == '}' ? key() : value();
    }

  private:
    using Kind = JsonToken::Kind;

    enum class State {
        value,       // one must come
        opened,      // an object or array, whose first entry or end must come
        value_ended  // a comma, the end of what it is in or of the text must come
    };

    JsonToken value() {
        switch (peek()) {
            case '{':
                return open('}', Kind::open_object);
            case '[':
                return open(']', Kind::open_array);
            case '"':
                return value_of(Kind::string, string());
            case 't':
                return value_of(Kind::boolean, word("true"));
            case 'f':
                return value_of(Kind::boolean, word("false"));
            case 'n':
                return value_of(Kind::null, word("null"));
            default:
                if (!is_digit(peek()) && peek() != '-') refuse("a value");
                return value_of(Kind::number, number());
        }
    }

    JsonToken value_of(Kind kind, std::string text) {
        state_ = State::value_ended;
        return {kind, std::move(text)};
    }

    JsonToken open(char closing, Kind kind) {
        ++position_;
        closing_ += closing;
        state_ = State::opened;
        return {kind};
    }

    JsonToken close() {
        const Kind kind = closing_.back() == '}' ? Kind::close_object : Kind::close_array;
        closing_.pop_back();
        return value_of(kind, {});
    }

    JsonToken end() const {
        if (position_ < text_.size()) refuse("the end");
        return {Kind::end};
    }

    JsonToken key() {
        if (peek() != '"') refuse("a key in quotation marks");
        JsonToken token{Kind::key, string()};
        skip_blanks();
        if (!take(':')) refuse("\":\"");
        state_ = State::value;
        return token;
    }

    std::string word(std::string_view expected) {
        if (!rest().starts_with(expected)) refuse("a value");
        position_ += expected.size();
        return std::string(expected);
    }

    std::string number() {
        const std::size_t start = position_;
        take('-');
        if (!take('0')) digits();
        if (take('.')) digits();
        if (take('e') || take('E')) {
            if (!take('+')) take('-');
            digits();
        }
        return std::string(text_.substr(start, position_ - start));
    }

    void digits() {
        if (!is_digit(peek())) refuse("a digit");
        while (is_digit(peek())) ++position_;
    }

    std::string string() {
        std::string out;
        ++position_;
        while (!take('"')) {
            if (take('\\')) {
                append_escaped(out);
                continue;
            }
            const std::size_t length = Utf8::length(rest());
            if (length == 0 || static_cast<unsigned char>(peek()) < 0x20)
                refuse("a character in UTF-8, none of control, or the end of the string");
            out += rest().substr(0, length);
            position_ += length;
        }
        return out;
    }

    /// What stands behind a backslash.
    void append_escaped(std::string& out) {
        constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
        if (take('u')) return Utf8::append(out, code_point());
        const std::size_t i = letters.find(peek());
        if (i == letters.npos) refuse("one of \"\\/bfnrtu");
        out += meanings[i];
        ++position_;
    }

    char32_t code_point() {
        const char32_t unit = utf16_unit();
        if (unit < 0xD800 || unit > 0xDFFF) return unit;
        const std::size_t second = position_;
        if (unit < 0xDC00 && take('\\') && take('u')) {
            const char32_t low = utf16_unit();
            if (low >= 0xDC00 && low <= 0xDFFF) return 0x10000 + (unit - 0xD800) * 0x400 + (low - 0xDC00);
        }
        position_ = second;
        refuse("a surrogate in a pair, high before low");
    }

    char32_t utf16_unit() {
        const std::string_view hexadecimal = rest().substr(0, 4);
        const char* const end = hexadecimal.data() + hexadecimal.size();
        unsigned unit = 0;
        const auto [stop, error] = std::from_chars(hexadecimal.data(), end, unit, 16);
        if (error != std::errc() || stop != end || hexadecimal.size() < 4) refuse("four hexadecimal digits");
        position_ += 4;
        return unit;
    }

    [[nodiscard]] std::string_view rest() const { return text_.substr(position_); }

    /// The next byte, zero at the end. JSON has none of value zero.
    [[nodiscard]] char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }

    bool take(char expected) {
        if (peek() != expected) return false;
        ++position_;
        return true;
    }

    void skip_blanks() { position_ = std::min(text_.find_first_not_of(" \t\n\r", position_), text_.size()); }

    static bool is_digit(char c) { return c >= '0' && c <= '9'; }

    [[noreturn]] void refuse(std::string_view expected) const {
        const std::string_view before = text_.substr(0, position_);
        const auto line = 1 + std::count(before.begin(), before.end(), '\n');
        const std::size_t column = position_ - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
        throw JsonError(concat(name_, " is not valid JSON, at byte ", position_ + 1, " (line ", line, ", column ",
                               column, "): found ", found(), ", expected ", expected));
    }

    /// A word, as far as it is short, or a byte.
    [[nodiscard]] std::string found() const {
        if (position_ == text_.size()) return "the end";
        const std::string_view few = rest().substr(0, 20);
        const auto in_word = [](char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
        const auto length = std::find_if_not(few.begin(), few.end(), in_word) - few.begin();
        return quote(few.substr(0, length > 0 ? static_cast<std::size_t>(length) : 1));
    }

    std::string_view text_;
    std::string name_;
    std::size_t position_ = 0;
    State state_ = State::value;
    std::string closing_{};  // of the objects and arrays that are open, the innermost last
};

}  // namespace mistral

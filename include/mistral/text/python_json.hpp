#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/json_reader.hpp>
#include <mistral/base/types.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace mistral {

/// Writes JSON as Python's `json.dumps(json.loads(text), ensure_ascii=False)` writes it, which
/// is the form that models were trained on: ", " and ": " between things, no line breaks, characters beyond ASCII as
/// they are, objects in their order, the last of equal keys in the place of the first, numbers as Python prints them.
///
/// NaN, Infinity and numbers beyond a double, which Python reads although JSON has none, are no JSON here.
class PythonJsonWriter {
  public:
    /// A member of an object: the key itself, and the value as JSON.
    using Member = std::pair<std::string, std::string>;

    /// Python itself gives up at about five times as many.
    static constexpr std::size_t most_levels = 200;

    /// `text` as JSON. Nothing where it is none; Error where it is nested too deeply.
    [[nodiscard]] static std::optional<std::string> rewrite(std::string_view text) {
        PythonJsonWriter writer;
        if (!writer.read(text)) return std::nullopt;
        return std::move(writer.open_.front().members.front().second);
    }

    /// The members of the object that `text` is. Nothing where it is none.
    [[nodiscard]] static std::optional<std::vector<Member>> members(std::string_view text) {
        PythonJsonWriter writer;
        if (!writer.read(text) || !writer.last_closed_.is_object) return std::nullopt;
        return std::move(writer.last_closed_.members);
    }

    /// `text` as a JSON string.
    [[nodiscard]] static std::string string_of(std::string_view text) {
        constexpr std::string_view digits = "0123456789abcdef";
        constexpr std::string_view escaped = "\"\\\b\f\n\r\t", letters = "\"\\bfnrt";
        std::string out = "\"";
        for (const char c : text) {
            const auto code = static_cast<unsigned char>(c);
            if (const std::size_t i = escaped.find(c); i != escaped.npos)
                out.append(1, '\\').append(1, letters[i]);
            else if (code < 0x20)
                out.append("\\u00").append(1, digits[code / 16]).append(1, digits[code % 16]);
            else
                out += c;
        }
        return out + '"';
    }

  private:
    using Kind = JsonToken::Kind;

    /// An object or array of which the end has not come.
    struct Container {
        bool is_object = false;
        std::string key{};              // of the value to come
        std::vector<Member> members{};  // without keys in an array
        std::map<std::string, std::size_t, std::less<>>
            positions{};  // of the keys among the members; no hash to be attacked
    };

    PythonJsonWriter() { open_.emplace_back(); }

    /// Whether `text` is JSON.
    bool read(std::string_view text) {
        if (text.starts_with("\xEF\xBB\xBF")) return false;  // a byte order mark, which Python does not skip
        try {
            JsonReader reader(text, "the text");
            for (JsonToken token = reader.next(); token.kind != Kind::end; token = reader.next())
                if (!take(std::move(token))) return false;
            return true;
        } catch (const JsonError&) {
            return false;
        }
    }

    /// Whether the token is one of JSON as it is written here.
    bool take(JsonToken token) {
        switch (token.kind) {
            case Kind::null:
            case Kind::boolean:
                add(std::move(token.text));
                return true;
            case Kind::number:
                return add_number(token.text);
            case Kind::string:
                add(string_of(token.text));
                return true;
            case Kind::key:
                open_.back().key = std::move(token.text);
                return true;
            case Kind::open_object:
            case Kind::open_array:
                open(token.kind == Kind::open_object);
                return true;
            case Kind::close_object:
            case Kind::close_array:
                close();
                return true;
            case Kind::end:
                return true;
        }
        return false;
    }

    bool add_number(const std::string& digits) {
        double value = 0;
        if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc()) {
            if (!is_below_one(digits)) return false;
            value = digits.front() == '-' ? -0.0 : 0.0;
        }
        const bool is_integer = digits.find_first_not_of("-0123456789") == std::string::npos;
        add(!is_integer ? float_of(value) : digits == "-0" ? "0" : digits);
        return true;
    }

    void add(std::string value) {
        Container& container = open_.back();
        if (container.is_object) {
            const auto [position, is_new] = container.positions.emplace(container.key, container.members.size());
            if (!is_new) {
                container.members[position->second].second = std::move(value);
                return;
            }
        }
        container.members.emplace_back(std::move(container.key), std::move(value));
    }

    void open(bool is_object) {
        require(open_.size() <= most_levels, "JSON nested more than ", most_levels, " levels deep is not supported");
        open_.push_back({.is_object = is_object});
    }

    void close() {
        last_closed_ = std::move(open_.back());
        open_.pop_back();
        add(joined(last_closed_));
    }

    static std::string joined(const Container& container) {
        std::string out(1, container.is_object ? '{' : '[');
        for (const auto& [key, value] : container.members) {
            if (out.size() > 1) out += ", ";
            if (container.is_object) out.append(string_of(key)).append(": ");
            out += value;
        }
        return out + (container.is_object ? '}' : ']');
    }

    /// Of a number beyond a double: whether it is too small, not too large.
    static bool is_below_one(std::string_view number) {
        const std::size_t end = std::min(number.find_first_of("eE"), number.size());
        const std::string_view digits = number.substr(0, end);
        const auto point = static_cast<Index>(std::min(digits.find('.'), end));
        const auto first = static_cast<Index>(digits.find_first_of("123456789"));
        if (end == number.size()) return point < first;
        const std::string_view exponent = number.substr(number[end + 1] == '+' ? end + 2 : end + 1);
        Index value = 0;
        if (std::from_chars(exponent.data(), exponent.data() + exponent.size(), value).ec != std::errc())
            return exponent.front() == '-';  // it outweighs all digits that fit into memory
        return point - first + value < (point > first ? 1 : 0);
    }

    /// The shortest digits that give the number back, with an exponent from 1e16 on and below 1e-4, as `repr` does.
    static std::string float_of(double value) {
        std::array<char, 32> buffer{};
        char* const begin = buffer.data();
        char* const end = begin + buffer.size();
        const std::string scientific(begin, std::to_chars(begin, end, value, std::chars_format::scientific).ptr);
        int exponent = 0;
        const char* digits = scientific.data() + scientific.find('e') + 1;
        std::from_chars(digits + (*digits == '+' ? 1 : 0), scientific.data() + scientific.size(), exponent);
        if (exponent < -4 || exponent >= 16) return scientific;
        const std::string fixed(begin, std::to_chars(begin, end, value, std::chars_format::fixed).ptr);
        return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
    }

    std::vector<Container> open_;  // the first holds the whole text's value
    Container last_closed_;
};

}  // namespace mistral

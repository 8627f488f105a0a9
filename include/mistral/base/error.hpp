#pragma once

#include <charconv>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>

namespace mistral {

/// The one exception type of the library. Its message says where, what was found and what was expected.
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

/// The loading or generation was stopped by the caller's `std::stop_token`.
class Cancelled : public Error {
  public:
    using Error::Error;
};

/// A part of a message: text as it is, numbers as in the C locale, of floating point to six digits. One type for all of
/// them, so that no code is made for each combination of parts.
class MessagePart {
  public:
    MessagePart(std::string_view text) : kind_(Kind::text), text_(text) {}
    MessagePart(const std::string& text) : kind_(Kind::text), text_(text) {}
    MessagePart(const char* text) : kind_(Kind::text), text_(text) {}
    MessagePart(char character) : kind_(Kind::character), character_(character) {}
    template <std::signed_integral T>
    requires(!std::same_as<T, char>) MessagePart(T number) : kind_(Kind::integer), integer_(number) {}
    MessagePart(std::unsigned_integral auto number) : kind_(Kind::natural), natural_(number) {}
    MessagePart(std::floating_point auto number) : kind_(Kind::real), real_(number) {}

    void append_to(std::string& message) const {
        char digits[32];
        char* const end = std::end(digits);
        switch (kind_) {
            case Kind::text:
                message += text_;
                break;
            case Kind::character:
                message += character_;
                break;
            case Kind::integer:
                message.append(digits, std::to_chars(digits, end, integer_).ptr);
                break;
            case Kind::natural:
                message.append(digits, std::to_chars(digits, end, natural_).ptr);
                break;
            case Kind::real:
                message.append(digits, std::to_chars(digits, end, real_, std::chars_format::general, 6).ptr);
        }
    }

  private:
    enum class Kind { text, character, integer, natural, real } kind_;
    union {
        std::string_view text_;
        char character_;
        std::int64_t integer_;
        std::uint64_t natural_;
        double real_;
    };
};

/// Joins the parts into one text.
[[nodiscard]] inline std::string join(std::initializer_list<MessagePart> parts) {
    std::string message;
    for (const MessagePart& part : parts) part.append_to(message);
    return message;
}
template <class... Parts>
[[nodiscard]] std::string concat(const Parts&... parts) {
    return join({MessagePart(parts)...});
}

/// Throws an Error whose message is the parts, joined.
[[noreturn]] inline void fail_with(std::initializer_list<MessagePart> parts) {
    throw Error(join(parts));
}
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    fail_with({MessagePart(parts)...});
}

/// Throws an Error whose message is the parts, joined, unless `condition` holds.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
    if (!condition) [[unlikely]]
        fail_with({MessagePart(parts)...});
}

}  // namespace mistral

#pragma once

#include <charconv>
#include <concepts>
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

/// Appends one part of a message: text as it is, numbers as in the C locale, of floating point to six digits.
inline void append_part(std::string& message, std::string_view text) {
    message += text;
}
inline void append_part(std::string& message, char character) {
    message += character;
}
inline void append_part(std::string& message, std::floating_point auto number) {
    char digits[32];
    const auto end =
        std::to_chars(std::begin(digits), std::end(digits), static_cast<double>(number), std::chars_format::general, 6)
            .ptr;
    message.append(digits, end);
}
inline void append_part(std::string& message, std::integral auto number) {
    char digits[32];
    message.append(digits, std::to_chars(std::begin(digits), std::end(digits), number).ptr);
}

/// Joins the parts into one text.
template <class... Parts>
[[nodiscard]] std::string concat(const Parts&... parts) {
    std::string message;
    (append_part(message, parts), ...);
    return message;
}

/// Throws an Error whose message is the parts, joined.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    throw Error(concat(parts...));
}

/// Throws an Error whose message is the parts, joined, unless `condition` holds.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
    if (!condition) [[unlikely]]
        fail(parts...);
}

}  // namespace mistral

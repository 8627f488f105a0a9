#pragma once

#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

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

/// Joins the parts into one text, with numbers written as in the C locale.
template <class... Parts>
[[nodiscard]] std::string concat(const Parts&... parts) {
    std::ostringstream out;
    out.imbue(std::locale::classic());
    (out << ... << parts);
    return out.str();
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

#include <mistral/base/utf8.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <optional>
#include <string>

using namespace mistral;

namespace {

/// The character that `bytes` encode by the plain arithmetic of UTF-8, or nothing: what is not the shortest form of a
/// character that may be encoded is ill-formed.
std::optional<std::uint32_t> decoded(const std::string& bytes) {
    const auto at = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i])); };
    const std::size_t size = bytes.size();
    const std::uint32_t lead = at(0);
    const std::uint32_t marks[] = {0, 0x00, 0xC0, 0xE0, 0xF0};
    const std::uint32_t masks[] = {0, 0x80, 0xE0, 0xF0, 0xF8};
    const std::uint32_t first[] = {0, 0, 0x80, 0x800, 0x10000};
    if ((lead & masks[size]) != marks[size]) return std::nullopt;
    std::uint32_t code = lead & ~masks[size] & 0xFF;
    for (std::size_t i = 1; i < size; ++i) {
        if ((at(i) & 0xC0) != 0x80) return std::nullopt;
        code = code << 6 | (at(i) & 0x3F);
    }
    if (code < first[size] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return std::nullopt;
    return code;
}

}  // namespace

TEST_CASE("every sequence of two bytes, with the edges of a third and a fourth, is judged as the arithmetic says") {
    int wrong = 0;
    const auto judge = [&](const std::string& bytes) {
        std::size_t expected = 0;
        for (std::size_t size = 1; size <= bytes.size(); ++size)
            if (decoded(bytes.substr(0, size))) expected = size;
        wrong += Utf8::length(bytes) != expected;
    };
    const auto text = [](auto... bytes) { return std::string{static_cast<char>(bytes)...}; };
    for (int a = 0; a < 256; ++a) {
        judge(text(a));
        for (int b = 0; b < 256; ++b) {
            judge(text(a, b));
            for (const int c : {0x7F, 0x80, 0x9F, 0xA0, 0xBF, 0xC0}) {
                judge(text(a, b, c));
                for (const int d : {0x7F, 0x80, 0xBF, 0xC0}) judge(text(a, b, c, d));
            }
        }
    }
    CHECK(wrong == 0);
}

TEST_CASE("the start of a character is told from what can become none") {
    for (const std::string start : {"\xC3", "\xE2", "\xE2\x82", "\xF0\x9F\x98", "\xED\x9F", "\xF4\x8F\xBF", "a"})
        CHECK(Utf8::is_prefix(start));
    for (const std::string none : {"\x80", "\xC0", "\xC1", "\xE0\x80", "\xED\xA0", "\xF0\x8F", "\xF4\x90", "\xF5",
                                   "\xE2\x28", "aa", "\xC3\xA9\xA9", ""})
        CHECK_FALSE(Utf8::is_prefix(none));
}

TEST_CASE("a text is well-formed if all of it is") {
    CHECK(Utf8::is_well_formed(""));
    CHECK(Utf8::is_well_formed("na\xC3\xAFve \xF0\x9F\x98\x80"));
    CHECK_FALSE(Utf8::is_well_formed("na\xC3\xAFve \xF0\x9F\x98"));
    CHECK_FALSE(Utf8::is_well_formed("\xFF"));
}

TEST_CASE("every character is appended as the arithmetic says") {
    int wrong = 0;
    for (char32_t code = 0; code <= 0x10FFFF; ++code) {
        if (code >= 0xD800 && code < 0xE000) continue;  // surrogates are no characters
        std::string bytes;
        Utf8::append(bytes, code);
        wrong += bytes.size() > 4 || decoded(bytes) != code;
    }
    CHECK(wrong == 0);
}

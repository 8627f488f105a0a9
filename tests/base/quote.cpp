#include <mistral/base/quote.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace mistral;

TEST_CASE("printable text is quoted as it is") {
    CHECK(quote("model.norm.weight") == "\"model.norm.weight\"");
    CHECK(escape("") == "");
}

TEST_CASE("controls, terminal sequences and bytes beyond ASCII are escaped") {
    CHECK(escape("a\nb\x1b[31m\x7f") == "a\\x0ab\\x1b[31m\\x7f");
    CHECK(escape("\xc3\xa9\xff") == "\\xc3\\xa9\\xff");
    CHECK(escape(std::string_view("\0x", 2)) == "\\x00x");
}

TEST_CASE("long text is cut") {
    CHECK(escape(std::string(80, 'a')) == std::string(80, 'a'));
    CHECK(escape(std::string(81, 'a')) == std::string(80, 'a') + "...");
    CHECK(escape("abcdef", 3) == "abc...");
    CHECK(quote(std::string(70'000, '\n')).size() < 400);
}

TEST_CASE("a path is given as UTF-8") {
    CHECK(utf8(std::filesystem::path(u8"mod\u00e8le")) == "mod\xc3\xa8le");
}

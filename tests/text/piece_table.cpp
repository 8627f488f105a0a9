#include <mistral/text/piece_table.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

using namespace mistral;

namespace {

/// Texts of 16 bytes of which libstdc++'s std::hash is the same on 64 bits: its steps (MurmurHash2, _Hash_bytes in
/// hash_bytes.cc) can be undone, so that the second 8 bytes make up for whatever the first 8 did. Elsewhere they are
/// texts like any other.
std::vector<std::string> colliding_texts(std::size_t count) {
    constexpr std::uint64_t factor = 0xc6a4a7935bd1e995;
    constexpr std::uint64_t start = 0xc70f6907 ^ (16 * factor);
    std::uint64_t inverse = factor;  // modulo 2^64, by Newton's iteration
    for (int i = 0; i < 5; ++i) inverse *= 2 - factor * inverse;
    const auto mix = [](std::uint64_t value) { return value ^ value >> 47; };  // undoes itself

    std::vector<std::string> texts(count, std::string(16, '\0'));
    for (std::uint64_t i = 0; std::string & text : texts) {
        const std::uint64_t first = i++;
        const std::uint64_t state = (start ^ (mix(first * factor) * factor)) * factor;
        const std::uint64_t second = mix(state * inverse) * inverse;
        std::memcpy(text.data(), &first, 8);
        std::memcpy(text.data() + 8, &second, 8);
    }
    return texts;
}

PieceTable table_of(const std::vector<std::string>& texts) {
    return PieceTable({texts.begin(), texts.end()});
}

/// How many of the texts are not found under the token of their place.
std::size_t misplaced(const PieceTable& table, const std::vector<std::string>& texts) {
    std::size_t wrong = 0;
    for (Token token = 0; const std::string& text : texts) {
        wrong += table.find(text) != token || table[token] != text;
        ++token;
    }
    return wrong;
}

}  // namespace

TEST_CASE("each text has the token of its place, and other texts have none") {
    std::vector<std::string> texts;
    for (int i = 0; i < 5000; ++i) texts.push_back(std::to_string(i));
    const PieceTable table = table_of(texts);
    CHECK(table.size() == 5000);
    CHECK(misplaced(table, texts) == 0);
    int found = 0;
    for (const std::string& text : texts) found += table.find(text + "x").has_value();
    CHECK(found == 0);
}

TEST_CASE("a text that is there several times is found at its first place") {
    const PieceTable table({"b", "a", "b", "c", "a", "b"});
    CHECK(table.size() == 6);
    CHECK(table.find("a") == 1);
    CHECK(table.find("b") == 0);
    CHECK(table.find("c") == 3);
    CHECK(table[4] == "a");
}

TEST_CASE("an empty table finds nothing") {
    CHECK(PieceTable().size() == 0);
    CHECK_FALSE(PieceTable().find("a"));
    CHECK_FALSE(PieceTable().find(""));
}

// Quadratic time would be a quarter of an hour, and end at the time limit of the test.
TEST_CASE("a million texts that were made to collide are found") {
    std::vector<std::string> texts = colliding_texts(1'000'001);
#if defined(__GLIBCXX__) && SIZE_MAX == UINT64_MAX
    REQUIRE(std::hash<std::string>{}(texts.front()) == std::hash<std::string>{}(texts.back()));
#endif
    const std::string other = texts.back();
    texts.pop_back();
    const PieceTable table = table_of(texts);
    CHECK(misplaced(table, texts) == 0);
    CHECK_FALSE(table.find(other));
}

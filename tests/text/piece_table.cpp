#include <mistral/text/piece_table.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace mistral;

TEST_CASE("each text has the token of its place, and other texts have none") {
    std::vector<std::string> texts;
    for (int i = 0; i < 5000; ++i) texts.push_back(std::to_string(i));
    PieceTable table(texts.size());
    int wrong = 0;
    for (const std::string& text : texts) wrong += !table.insert(text);
    for (Token token = 0; token < 5000; ++token) {
        wrong += table.find(std::to_string(token)) != token;
        wrong += table[token] != std::to_string(token);
        wrong += table.find(std::to_string(token) + "x").has_value();
    }
    CHECK(wrong == 0);
    CHECK(table.size() == 5000);
}

TEST_CASE("a text that is there already is not taken again") {
    PieceTable table(2);
    CHECK(table.insert("a"));
    CHECK_FALSE(table.insert("a"));
    CHECK(table.insert("b"));
    CHECK(table.size() == 2);
    CHECK(table.find("b") == 1);
}

TEST_CASE("an empty table finds nothing") {
    CHECK(PieceTable().size() == 0);
    CHECK_FALSE(PieceTable().find("a"));
    CHECK_FALSE(PieceTable().find(""));
}

#include <mistral/checkpoint/json.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>

#include "../program_locale.hpp"
#include "files.hpp"

using namespace mistral;

namespace {

std::string parse_error(const std::string& text) {
    return message_of([&] { return Json::parse(text, "f.json"); });
}

std::string repeated(const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
}

constexpr Index least = std::numeric_limits<Index>::min(), largest = std::numeric_limits<Index>::max();
constexpr double largest_double = std::numeric_limits<double>::max();

}  // namespace

TEST_CASE("values are read as what they are") {
    const Json root =
        Json::parse(R"({"i": -3, "u": 18446744073709551615, "x": 2.5, "t": "\u00e9\n", "b": true, "n": null,
                                      "l": [1, 2], "o": {"k": 4}})",
                    "f.json");
    CHECK(root.at("i").integer(-5, 5) == -3);
    CHECK(root.at("i").number(-5, 5) == -3);
    CHECK(root.at("x").number(0, 3) == 2.5);
    CHECK(root.at("t").text() == "\xc3\xa9\n");
    CHECK(root.at("b").boolean());
    CHECK(root.at("n").is_null());
    CHECK(root.at("l").elements(2).at(1).integer(0, 9) == 2);
    CHECK(root.at("o").at("k").integer(0, 9) == 4);
    root.at("o").for_each_member([](const std::string& key, const Json& value) {
        CHECK(key == "k");
        CHECK(value.where() == "f.json: o.k");
    });
    CHECK(root.at("o").member_count() == 1);
    CHECK(root.find("n").has_value());
    CHECK_FALSE(root.find_given("n").has_value());
    CHECK_FALSE(root.find("missing").has_value());
}

TEST_CASE("a value outlives the document that it comes from") {
    const Json value = Json::parse(R"({"a": {"b": "text"}})", "f.json").at("a").at("b");
    CHECK(value.text() == "text");
}

TEST_CASE("a wrong value is refused with file, key, found and expected") {
    const Json root = Json::parse(
        R"({"a": {"b": [7, "x"]}, "u": 9223372036854775808, "v": 18446744073709551615, "e": 1e2, "f": 0.5, "n": null,
                                      "long": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"})",
        "dir/f.json");
    const auto message = [](auto&& call) { return message_of(call); };
    const auto list = root.at("a").at("b").elements(2);
    CHECK(message([&] { return list[0].integer(0, 6); }) == "dir/f.json: a.b[0] is 7, expected an integer from 0 to 6");
    CHECK(message([&] { return list[1].integer(0, 6); }) ==
          "dir/f.json: a.b[1] is \"x\", expected an integer from 0 to 6");
    CHECK(message([&] { return list[0].text(); }) == "dir/f.json: a.b[0] is 7, expected a text");
    CHECK(message([&] { return root.at("a").boolean(); }) == "dir/f.json: a is an object, expected true or false");
    CHECK(message([&] { return root.at("a").at("b").elements(1); }) ==
          "dir/f.json: a.b is a list of 2, expected a list of at most 1");
    CHECK(message([&] { return root.at("a").at("c"); }) == "dir/f.json: a.c is missing");
    CHECK(message([&] { return root.at("n").member_count(); }) == "dir/f.json: n is null, expected an object");
    CHECK(message([&] { return root.at("n").at("c"); }) == "dir/f.json: n is null, expected an object");
    CHECK(message([&] { return root.at("u").integer(0, largest); }) ==
          "dir/f.json: u is 9223372036854775808, expected an integer from 0 to 9223372036854775807");
    CHECK_FALSE(message([&] { return root.at("v").integer(-largest, largest); }).empty());  // and does not wrap
    CHECK(message([&] { return root.at("e").integer(0, 1000); }) ==
          "dir/f.json: e is 1e2, expected an integer from 0 to 1000");
    CHECK(message([&] { return root.at("f").number(0.5, 1); }) ==
          "dir/f.json: f is 0.5, expected a number between 0.5 and 1");
    CHECK(message([&] { return root.at("f").number(0, 0.5); }) ==
          "dir/f.json: f is 0.5, expected a number between 0 and 0.5");
    CHECK(message([&] { return root.at("long").boolean(); }).size() < 150);
}

TEST_CASE("a key that stands twice is refused, also when it is spelt differently") {
    CHECK(parse_error(R"({"a": 1, "a": 1})") == "f.json: the key \"a\" stands twice in one object");
    CHECK(parse_error(R"({"a": 1, "\u0061": 2})") == "f.json: the key \"a\" stands twice in one object");
    CHECK(parse_error(R"({"o": {"k": 1, "b": {}, "k": 1}})") == "f.json: the key \"k\" stands twice in one object");
    CHECK(parse_error(R"({"o": {"k": 1}, "p": {"k": 1}, "k": [{"k": 1}, {"k": 2}]})").empty());
}

TEST_CASE("what is not JSON is refused with the place") {
    for (const std::string text : {"",
                                   " ",
                                   "{",
                                   "{\"a\":1,}",
                                   "[1 2]",
                                   "{\"a\" 1}",
                                   "{a: 1}",
                                   "nul",
                                   "'a'",
                                   "\"a",
                                   "{} {}",
                                   "{}x",
                                   "[NaN]",
                                   "[Infinity]",
                                   "[-Infinity]",
                                   "[01]",
                                   "[+1]",
                                   "[1.]",
                                   "[.5]",
                                   "[0x10]",
                                   "/* */ {}",
                                   "\"\x01\"",
                                   "\"\xff\"",
                                   "\"\xc0\x80\"",
                                   "\"\xed\xa0\x80\"",
                                   "\"\\ud800\"",
                                   "\"\\udc00\"",
                                   "\"\\ud800\\ud800\"",
                                   "\"\\x41\"",
                                   "\xff\xfe{}"}) {
        CAPTURE(text);
        CHECK(parse_error(text).starts_with("f.json is not valid JSON, at byte "));
    }
    CHECK(parse_error(std::string("{}\0", 3)) ==
          "f.json is not valid JSON, at byte 3 (line 1, column 3): found \"\\x00\", expected the end");
    CHECK(parse_error("[\"" + std::string(1'000'000, 'a')).size() < 300);
}

TEST_CASE("numbers beyond a double are refused") {
    for (const char* text : {"[1e400]", "[-1e400]", "[1e-400]"}) {
        CAPTURE(text);
        CHECK_FALSE(parse_error(text).empty());
    }
    CHECK(parse_error("[1e308, 1e-300, 18446744073709551616]").empty());
    CHECK(Json::parse("[18446744073709551616]", "f").elements(1)[0].number(1e19, 2e19) == 18446744073709551616.0);
}

TEST_CASE("numbers are the doubles and integers that nlohmann reads") {
    std::mt19937 random(7);
    const auto digits = [&](std::size_t most) {
        std::string all(1, static_cast<char>('1' + random() % 9));
        for (std::size_t more = random() % most; more > 0; --more) all += static_cast<char>('0' + random() % 10);
        return all;
    };
    for (int i = 0; i < 20'000; ++i) {
        std::string text = concat(i % 2 == 0 ? "" : "-", digits(19));
        if (i % 3 > 0) text += "." + digits(18);
        if (i % 3 > 1) text += concat("e", static_cast<int>(random() % 500) - 250);
        const Json ours = Json::parse(text, "f");
        const auto theirs = nlohmann::json::parse(text);
        bool agree = ours.number(-largest_double, largest_double) == theirs.get<double>();
        const bool is_index = theirs.is_number_integer() && (i % 2 == 1 || theirs.get<std::uint64_t>() <= largest);
        if (is_index) agree = agree && ours.integer(least, largest) == theirs.get<Index>();
        if (agree && is_index == message_of([&] { return ours.integer(least, largest); }).empty()) continue;
        CAPTURE(text);
        CHECK(agree);
        CHECK(is_index == message_of([&] { return ours.integer(least, largest); }).empty());
    }
}

TEST_CASE("a byte order mark is skipped") {
    CHECK(parse_error("\xef\xbb\xbf{}").empty());
}

TEST_CASE("depth, size and number of values are limited") {
    const int deepest = static_cast<int>(JsonBuilder::max_depth);
    CHECK(parse_error(repeated("[", deepest) + repeated("]", deepest)).empty());
    CHECK(parse_error(repeated("[", deepest + 1) + repeated("]", deepest + 1)) ==
          "f.json is nested more than 16 levels deep");
    CHECK(parse_error(repeated("[", 100'000)) == "f.json is nested more than 16 levels deep");
    CHECK(parse_error(repeated("{\"a\":", 100'000)) == "f.json is nested more than 16 levels deep");
    CHECK(parse_error("[" + repeated("0,", JsonBuilder::max_values - 2) + "0]").empty());
    CHECK(parse_error("[" + repeated("0,", JsonBuilder::max_values - 1) + "0]") ==
          "f.json holds more than 32768 values, which no checkpoint does");
    CHECK(parse_error("[" + repeated("{},", 300'000) + "0]") ==
          "f.json holds more than 32768 values, which no checkpoint does");
    CHECK(parse_error(std::string(JsonBuilder::max_bytes, ' ') + "1") ==
          "f.json has 1048577 bytes of JSON, expected at most 1048576");
}

TEST_CASE("numbers in messages do not depend on the locale of C++'s streams") {
    const ProgramLocale punctuation("C");
    const Json root = Json::parse(R"({"a": 0.125e1, "c": 1234567})", "f.json");
    CHECK(message_of([&] { return root.at("a").number(0, 0.5); }) ==
          "f.json: a is 0.125e1, expected a number between 0 and 0.5");
    CHECK(message_of([&] { return root.at("c").integer(0, 1'000'000); }) ==
          "f.json: c is 1234567, expected an integer from 0 to 1000000");
}

#include <mistral/text/python_json.hpp>

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace mistral;

namespace {

std::string rewrite(std::string_view text) {
    return PythonJsonWriter::rewrite(text).value_or("no JSON");
}

}  // namespace

// What is expected here is what Python 3.11 prints for json.dumps(json.loads(text), ensure_ascii=False).

TEST_CASE("JSON is written as Python writes it") {
    CHECK(rewrite(R"({"b":1,"a":{"z":[],"y":{}},"c":[true,false,null]})") ==
          R"({"b": 1, "a": {"z": [], "y": {}}, "c": [true, false, null]})");
    CHECK(rewrite(" [\n1 ,\t2 ] ") == "[1, 2]");
    CHECK(rewrite("\"\"") == "\"\"");
    CHECK(rewrite("null") == "null");
}

TEST_CASE("numbers are written as Python's repr does") {
    const std::vector<std::pair<std::string, std::string>> numbers{
        {"0", "0"},
        {"-0", "0"},
        {"-0.0", "-0.0"},
        {"1.0", "1.0"},
        {"1e5", "100000.0"},
        {"1E+2", "100.0"},
        {"0.1", "0.1"},
        {"0.30000000000000004", "0.30000000000000004"},
        {"-2.50", "-2.5"},
        {"0.0001", "0.0001"},
        {"0.00001", "1e-05"},
        {"1.5e-7", "1.5e-07"},
        {"1e15", "1000000000000000.0"},
        {"1e16", "1e+16"},
        {"123456789.125e3", "123456789125.0"},
        {"9007199254740993.0", "9007199254740992.0"},
        {"9999999999999998.0", "9999999999999998.0"},
        {"5e-324", "5e-324"},
        {"1e-400", "0.0"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"9223372036854775808", "9223372036854775808"},
        {"-9223372036854775809", "-9223372036854775809"},
        {"18446744073709551616", "18446744073709551616"},
        {"123456789012345678901234567890", "123456789012345678901234567890"}};
    for (const auto& [text, expected] : numbers) CHECK(rewrite(text) == expected);
}

TEST_CASE("numbers that are too small for a double are zero, and those that are too large no JSON") {
    const std::string zeros(400, '0');
    for (const std::string& tiny :
         {std::string("2.4e-324"), std::string("1e-99999999999999999999"), "0." + zeros + "1", "0." + zeros + "12e+50",
          "1" + zeros + "e-800", "1" + zeros + ".5e-800", std::string("0e99999999999999999999")}) {
        CAPTURE(tiny);
        CHECK(rewrite(tiny) == "0.0");
        CHECK(rewrite("-" + tiny) == "-0.0");
    }
    for (const std::string& huge :
         {std::string("1.8e308"), std::string("1e99999999999999999999"), "1" + zeros, "1" + zeros + ".0",
          "1" + zeros + "e+1", "0." + zeros + "1e800", std::string("0.001e400")}) {
        CAPTURE(huge);
        CHECK(rewrite(huge) == "no JSON");
        CHECK(rewrite("-" + huge) == "no JSON");
    }
}

TEST_CASE("strings keep what is not ASCII and escape what must be") {
    CHECK(rewrite(R"("\u00e9\ud83d\ude00\/\b\f\u0001\u007f\u2028")") ==
          "\"\xC3\xA9\xF0\x9F\x98\x80/\\b\\f\\u0001\x7F\xE2\x80\xA8\"");
    CHECK(PythonJsonWriter::string_of(std::string("a\"\\\n\r\t\b\f\x1F\0z", 11)) ==
          R"("a\"\\\n\r\t\b\f\u001f\u0000z")");
    CHECK(PythonJsonWriter::string_of("/\x7F\xC3\xA9") == "\"/\x7F\xC3\xA9\"");
}

TEST_CASE("the last of equal keys counts, in the place of the first") {
    CHECK(rewrite(R"({"a":1,"b":2,"\u0061":3})") == R"({"a": 3, "b": 2})");
    CHECK(rewrite(R"({"a":{"a":1},"b":{"a":2}})") == R"({"a": {"a": 1}, "b": {"a": 2}})");
}

TEST_CASE("what is no JSON is told") {
    for (const std::string text :
         {"",    " ",        "text",  "{",           "[1,2",     "[1,]",         "01",
          "+1",  ".5",       "1.",    "'a'",         "\"a\nb\"", "{\"a\":1} x",  "\xEF\xBB\xBF{}",
          "NaN", "Infinity", "1e400", "\"\\ud800\"", "\"\xFF\"", "// comment\n1"})
        CHECK_FALSE(PythonJsonWriter::rewrite(text));
    CHECK_FALSE(PythonJsonWriter::rewrite(std::string_view("{}\0", 3)));
}

TEST_CASE("rewriting what is rewritten changes nothing") {
    for (const std::string text : {R"({"a":[1.50,"\u00e9",{"b":[]}],"c":1e22})", "[[[[]]]]", "-1.25e-9"})
        CHECK(rewrite(rewrite(text)) == rewrite(text));
}

TEST_CASE("the members of an object are its keys and their values as JSON") {
    const auto members = PythonJsonWriter::members(R"({"a":{"b":[1,2]},"\u00e9":"x"})");
    REQUIRE(members.has_value());
    REQUIRE(members->size() == 2);
    CHECK(members->at(0) == PythonJsonWriter::Member("a", R"({"b": [1, 2]})"));
    CHECK(members->at(1) == PythonJsonWriter::Member("\xC3\xA9", "\"x\""));
    CHECK(PythonJsonWriter::members("{}")->empty());
    for (const std::string text : {"[{\"a\":1}]", "1", "\"{}\"", "{", ""}) CHECK_FALSE(PythonJsonWriter::members(text));
}

TEST_CASE("nesting is bounded") {
    const auto nested = [](std::size_t levels) { return std::string(levels, '[') + std::string(levels, ']'); };
    CHECK(rewrite(nested(200)) == nested(200));
    CHECK_THROWS_AS((void)rewrite(nested(201)), Error);
    CHECK_THROWS_AS((void)rewrite(std::string(100000, '[')), Error);
}

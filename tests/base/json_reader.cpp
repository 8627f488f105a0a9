#include <mistral/base/json_reader.hpp>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "../message_of.hpp"

using namespace mistral;

namespace {

using Kind = JsonToken::Kind;

/// What a text holds: a letter for each token, with its text between bars.
std::string read(std::string_view text) {
    constexpr std::string_view letters = "nb#sk{}[]";
    JsonReader reader(text, "f");
    std::string all;
    for (JsonToken token = reader.next(); token.kind != Kind::end; token = reader.next()) {
        const bool is_zero = token.kind == Kind::number && token.text == "-0";  // as an integer, which has no sign
        all += letters[static_cast<std::size_t>(token.kind)];
        all.append("|").append(is_zero ? "0" : token.text).append("|");
    }
    return all;
}

std::string parse_error(std::string_view text) {
    return message_of([&] { return read(text); });
}

/// The same by nlohmann's reader.
struct Peer : nlohmann::json_sax<nlohmann::json> {
    std::string all;
    bool is_beyond_double = false;

    bool add(char letter, std::string_view text = {}) {
        all.append(1, letter).append("|").append(text).append("|");
        return true;
    }
    bool null() override { return add('n', "null"); }
    bool boolean(bool value) override { return add('b', value ? "true" : "false"); }
    bool number_integer(std::int64_t value) override { return add('#', std::to_string(value)); }
    bool number_unsigned(std::uint64_t value) override { return add('#', std::to_string(value)); }
    bool number_float(double, const std::string& digits) override { return add('#', digits); }
    bool string(std::string& value) override { return add('s', value); }
    bool binary(nlohmann::json::binary_t&) override { return false; }
    bool start_object(std::size_t) override { return add('{'); }
    bool key(std::string& value) override { return add('k', value); }
    bool end_object() override { return add('}'); }
    bool start_array(std::size_t) override { return add('['); }
    bool end_array() override { return add(']'); }
    bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
        is_beyond_double = error.id == 406;
        return false;
    }
};

/// A valid text, or one that is nearly so.
class TextGenerator {
  public:
    std::string next() {
        std::string text = seeds[below(seeds.size())];
        for (std::size_t changes = below(4); changes > 0; --changes) change(text);
        return text;
    }

  private:
    // Not among them: numbers with exponents of many digits, and zero bytes, which nlohmann's reader takes for the end.
    static constexpr std::string_view bytes =
        "{}[]:,\"\\/ "
        "\t\r\n\v\fntrufalse0123456789+-.eEdDcC8\x01\x1F\x7F\x80\x9F\xA0\xBF\xC0\xC3\xE0\xED\xEF\xF0\xF4\xFF";
    inline static const std::vector<std::string> seeds{
        "",
        "null",
        " [true , false,null]\r\n",
        R"({"a":1,"b":[2,{"c":"d"}],"a":{}})",
        R"(["\"\\\/\b\f\n\r\t", "\u0041\u00e9\u20ac\ud83d\ude00"])",
        R"("\uD800\uDC00\udbff\udfff")",
        R"([0,-0,-1,12,0.5,-2.50,1e5,1E+2,3e-7,0e0,18446744073709551615,18446744073709551616,-9223372036854775809])",
        "\"\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80 \xED\x9F\xBF\xEE\x80\x80 \xF4\x8F\xBF\xBF\x7F\"",
        "\xEF\xBB\xBF{}",
        "[[[[[[]]]]],[[{\"\":[[]]}]]]",
        "\"a\"",
        "-1.5e3"};

    std::size_t below(std::size_t bound) { return random_() % bound; }

    void change(std::string& text) {
        const std::size_t at = below(text.size() + 1);
        const char byte = bytes[below(bytes.size())];
        switch (below(4)) {
            case 0:
                text.insert(at, 1, byte);
                break;
            case 1:
                text.replace(at, 1, 1, byte);
                break;
            case 2:
                text.erase(at, 1 + below(3));
                break;
            default:
                text.insert(at, text.substr(below(text.size() + 1), 1 + below(8)));
        }
    }

    std::mt19937 random_{20260};
};

}  // namespace

TEST_CASE("a text is read token by token") {
    CHECK(read(R"( {"a" : [1, "x", {}], "b":null ,"":true} )") ==
          "{||k|a|[||#|1|s|x|{||}||]||k|b|n|null|k||b|true|}||");
    CHECK(read("[]") == "[||]||");
    CHECK(read("\t\r\n 7\n") == "#|7|");
    CHECK(read("[false,[]]") == "[||b|false|[||]||]||");
    JsonReader reader("1", "f");
    CHECK(reader.next().kind == Kind::number);
    CHECK(reader.next().kind == Kind::end);
    CHECK(reader.next().kind == Kind::end);
}

TEST_CASE("numbers keep their digits, however many") {
    for (const std::string number : {"0", "-0.0", "1.50", "1E+05", "-2e-3", "1e400", "1e99999999999999999999",
                                     "123456789012345678901234567890.123456789012345678901234567890"})
        CHECK(read("[" + number + "]") == "[||#|" + number + "|]||");
    CHECK(read(std::string(100'000, '9')).size() == 100'003);
}

TEST_CASE("strings are decoded to UTF-8") {
    CHECK(read(R"("\"\\\/\b\f\n\r\t")") == "s|\"\\/\b\f\n\r\t|");
    CHECK(read(R"("\u0000")") == std::string("s|\0|", 4));
    CHECK(read(R"("\u007f\u0080\u07FF\u0800\ud7ff\ue000\uffff")") ==
          "s|\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF|");
    CHECK(read(R"("\ud800\udc00\uDBFF\uDFFF\ud83d\ude00")") == "s|\xF0\x90\x80\x80\xF4\x8F\xBF\xBF\xF0\x9F\x98\x80|");
    CHECK(read("\"\xC3\xA9\x7F\xF4\x8F\xBF\xBF\"") == "s|\xC3\xA9\x7F\xF4\x8F\xBF\xBF|");
}

TEST_CASE("what is no JSON is refused with place, found and expected") {
    const auto message = [](const std::string& rest) { return "f is not valid JSON, at byte " + rest; };
    CHECK(parse_error("") == message("1 (line 1, column 1): found the end, expected a value"));
    CHECK(parse_error("{} {}") == message("4 (line 1, column 4): found \"{\", expected the end"));
    CHECK(parse_error("{\n \"a\": 1,\n}") ==
          message("12 (line 3, column 1): found \"}\", expected a key in quotation marks"));
    CHECK(parse_error("[\n1,\n  ]") == message("8 (line 3, column 3): found \"]\", expected a value"));
    CHECK(parse_error("[1 2]") == message("4 (line 1, column 4): found \"2\", expected \",\" or \"]\""));
    CHECK(parse_error("{\"a\": 1]") == message("8 (line 1, column 8): found \"]\", expected \",\" or \"}\""));
    CHECK(parse_error("{\"a\" 1}") == message("6 (line 1, column 6): found \"1\", expected \":\""));
    CHECK(parse_error("{a: 1}") == message("2 (line 1, column 2): found \"a\", expected a key in quotation marks"));
    CHECK(parse_error("[NaN]") == message("2 (line 1, column 2): found \"NaN\", expected a value"));
    CHECK(parse_error("[-Infinity]") == message("3 (line 1, column 3): found \"Infinity\", expected a digit"));
    CHECK(parse_error("[01]") == message("3 (line 1, column 3): found \"1\", expected \",\" or \"]\""));
    CHECK(parse_error("[1.]") == message("4 (line 1, column 4): found \"]\", expected a digit"));
    CHECK(parse_error("[\"\\x41\"]") == message("4 (line 1, column 4): found \"x41\", expected one of \"\\/bfnrtu"));
    CHECK(parse_error("\"\\u12g4\"") ==
          message("4 (line 1, column 4): found \"12g4\", expected four hexadecimal digits"));
    CHECK(parse_error("\"\\u-001\"") == message("4 (line 1, column 4): found \"-\", expected four hexadecimal digits"));
    const std::string pair = "expected a surrogate in a pair, high before low";
    CHECK(parse_error("\"\\ud800\"") == message("8 (line 1, column 8): found \"\"\", " + pair));
    CHECK(parse_error("\"\\udc00\\ud800\"") == message("8 (line 1, column 8): found \"\\\", " + pair));
    CHECK(parse_error("\"\\ud800\\ud800\"") == message("8 (line 1, column 8): found \"\\\", " + pair));
    const std::string character = "expected a character in UTF-8, none of control, or the end of the string";
    CHECK(parse_error("\"a\nb\"") == message("3 (line 1, column 3): found \"\\x0a\", " + character));
    CHECK(parse_error("\"\xED\xA0\x80\"") == message("2 (line 1, column 2): found \"\\xed\", " + character));
    CHECK(parse_error("\"a") == message("3 (line 1, column 3): found the end, " + character));
    CHECK(parse_error("\xEF\xBB\xBF{}x") == message("6 (line 1, column 6): found \"x\", expected the end"));
    CHECK(parse_error("\xEF\xBB\xBF\xEF\xBB\xBF{}").starts_with(message("4 ")));
    CHECK(parse_error(std::string(100'000, 'x')).size() < 200);
}

TEST_CASE("a zero byte is no end") {
    for (const char* before : {"", "1", "{}", "[1,", "\"a", "\"\\", "tru", "1e"}) {
        CAPTURE(before);
        CHECK_FALSE(parse_error(std::string(before) + std::string("\0", 1)).empty());
        CHECK_FALSE(parse_error(std::string(before) + std::string("\0 ]", 3)).empty());
    }
}

TEST_CASE("depth costs a byte per level, and no stack") {
    const std::string deep(1'000'000, '[');
    JsonReader reader(deep, "f");
    for (std::size_t i = 0; i < deep.size(); ++i)
        if (reader.next().kind != Kind::open_array) FAIL("no array");
    CHECK_THROWS_AS((void)reader.next(), JsonError);
}

TEST_CASE("nlohmann's reader accepts the same texts and finds the same in them") {
    TextGenerator texts;
    int accepted = 0, refused = 0, beyond_double = 0;
    for (int i = 0; i < 300'000; ++i) {
        const std::string text = texts.next();
        Peer peer;
        const bool expected = nlohmann::json::sax_parse(text, &peer);
        if (peer.is_beyond_double) {  // which it refuses
            ++beyond_double;
            continue;
        }
        std::optional<std::string> found;
        try {
            found = read(text);
        } catch (const JsonError&) {
        }
        ++(expected ? accepted : refused);
        if (found.has_value() == expected && (!expected || *found == peer.all)) continue;
        CAPTURE(text);
        CHECK(found.has_value() == expected);
        if (expected && found) CHECK(*found == peer.all);
    }
    CHECK(accepted > 50'000);
    CHECK(refused > 50'000);
    CHECK(beyond_double < 10'000);
}

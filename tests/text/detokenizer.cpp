#include <mistral/text/detokenizer.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <text/line_generator.hpp>
#include <text/models.hpp>

using namespace mistral;

namespace {

using Tokens = std::vector<Token>;

/// What each token brings, and the rest.
std::vector<std::string> stream(Detokenizer& detokenizer, const Tokens& tokens) {
    std::vector<std::string> parts;
    for (const Token token : tokens) parts.push_back(detokenizer.push(token));
    parts.push_back(detokenizer.finish());
    return parts;
}

std::vector<std::string> stream(const Tokens& tokens) {
    Detokenizer detokenizer(tokenizer("v1"));
    return stream(detokenizer, tokens);
}

using Strings = std::vector<std::string>;
constexpr Token first_byte = 3;  // of version 1

}  // namespace

TEST_CASE("streamed parts of random tokens are well-formed, and together what decode makes of the whole") {
    for (const std::string version : {"v1", "v3", "shakespeare"}) {
        const Tokenizer& model = tokenizer(version);
        LineGenerator random(11);
        const auto bytes = static_cast<std::uint64_t>(*model.find("<0x00>"));
        Detokenizer detokenizer(model);
        int different = 0, cut = 0;
        for (int i = 0; i < 3000; ++i) {
            const Tokens tokens = random.tokens(bytes, static_cast<std::uint64_t>(model.vocab_size()));
            std::string text;
            for (const std::string& part : stream(detokenizer, tokens)) {
                cut += !Utf8::is_well_formed(part);
                text += part;
            }
            different += text != model.decode(tokens);
        }
        CHECK(different == 0);
        CHECK(cut == 0);
    }
}

TEST_CASE("streamed parts of encoded lines are well-formed and together the line") {
    LineGenerator generator(13, LineGenerator::read_fragments(text_data + "fragments.txt"));
    int lines = 0, different = 0, cut = 0;
    for (int i = 0; i < 1000; ++i) {
        const std::string line = generator.line();
        const Tokens tokens = tokenizer("v3").encode(line, {.bos = false});
        Detokenizer detokenizer(tokenizer("v3"));
        std::string text;
        for (const std::string& part : stream(detokenizer, tokens)) {
            cut += !Utf8::is_well_formed(part);
            text += part;
        }
        different += text != tokenizer("v3").decode(tokens);
        ++lines;
    }
    CHECK(lines == 1000);
    CHECK(different == 0);
    CHECK(cut == 0);
}

TEST_CASE("a character that comes in bytes comes out whole, with its last byte") {
    CHECK(stream({first_byte + 0xF0, first_byte + 0x9F, first_byte + 0x98, first_byte + 0x80}) ==
          Strings{"", "", "", "\xF0\x9F\x98\x80", ""});
}

TEST_CASE("bytes become U+FFFD as soon as they can make no character") {
    CHECK(stream({first_byte + 0xF0, first_byte + 0x9F, first_byte + 0x41}) == Strings{"", "",
                                                                                       "\xEF\xBF\xBD\xEF\xBF\xBD"
                                                                                       "A",
                                                                                       ""});
    CHECK(stream({first_byte + 0x80}) == Strings{"\xEF\xBF\xBD", ""});
    CHECK(stream({first_byte + 0xE2, first_byte + 0x82}) == Strings{"", "", "\xEF\xBF\xBD\xEF\xBF\xBD"});
    const Token the = *tokenizer("v1").find("\xE2\x96\x81the");
    CHECK(stream({first_byte + 0xE2, the}) == Strings{"", "\xEF\xBF\xBD the", ""});
}

TEST_CASE("a control token cuts a character, as in sentencepiece") {
    CHECK(stream({first_byte + 0xC3, 1, first_byte + 0xA9}) == Strings{"", "\xEF\xBF\xBD", "\xEF\xBF\xBD", ""});
}

TEST_CASE("the first blank is dropped once, and only at the start") {
    const Token the = *tokenizer("v1").find("\xE2\x96\x81the");
    const Token blank = *tokenizer("v1").find("\xE2\x96\x81");
    CHECK(stream({1, the, the}) == Strings{"", "the", " the", ""});
    CHECK(stream({blank, the}) == Strings{"", " the", ""});
    CHECK(stream({blank, 2, the}) == Strings{"", "", " the", ""});
    CHECK(stream({0, the}) == Strings{" \xE2\x81\x87 ", " the", ""});
}

TEST_CASE("after the end of a text a new one starts") {
    Detokenizer detokenizer(tokenizer("v1"));
    const Token the = *tokenizer("v1").find("\xE2\x96\x81the");
    CHECK(stream(detokenizer, {the, the}) == Strings{"the", " the", ""});
    CHECK(stream(detokenizer, {the, first_byte + 0xE2}) == Strings{"the", "", "\xEF\xBF\xBD"});
    CHECK(stream(detokenizer, {the}) == Strings{"the", ""});
}

TEST_CASE("a number that is no token is refused and changes nothing") {
    Detokenizer detokenizer(tokenizer("v1"));
    CHECK(detokenizer.push(first_byte + 0xC3).empty());
    CHECK_THROWS_AS((void)detokenizer.push(32000), Error);
    CHECK(detokenizer.push(first_byte + 0xA9) == "\xC3\xA9");
}

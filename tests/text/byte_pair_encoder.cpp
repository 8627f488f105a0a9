#include <mistral/text/byte_pair_encoder.hpp>

#include <doctest/doctest.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <text/line_generator.hpp>
#include <text/model_builder.hpp>
#include <text/models.hpp>

using namespace mistral;

namespace {

using Tokens = std::vector<Token>;

Tokens encode(const ModelBuilder& builder, std::string_view text) {
    const Vocabulary vocabulary(builder.parse());
    Tokens tokens;
    BytePairEncoder(vocabulary).encode(text, tokens);
    return tokens;
}

std::string build_small_model(const nlohmann::json& description) {
    ModelBuilder builder;
    for (const auto& piece : description["pieces"])
        builder.piece(piece[0].get<std::string>(), piece[1], static_cast<PieceType>(piece[2].get<int>()));
    const auto& options = description["options"];
    if (options["byte_fallback"]) builder.byte_pieces();
    builder.normalizer_spec.varint(3, options["add_dummy_prefix"].get<bool>())
        .varint(4, options["remove_extra_whitespaces"].get<bool>())
        .varint(5, options["escape_whitespaces"].get<bool>());
    return builder.str();
}

/// random_text of tests/data/text/make_small_model_goldens.py.
std::string random_text(LineGenerator& generator) {
    const std::vector<std::string> alphabet{"a", "b", "c", "\xE2\x96\x81", "\xC3\xA9", " "};
    std::string text;
    for (auto left = generator.below(40); left > 0; --left) {
        const auto kind = generator.below(40);
        text += kind == 0 ? "\xFF" : kind == 1 ? "\xE6\x97\xA5" : alphabet[kind % 6];
    }
    return text;
}

}  // namespace

TEST_CASE("random small models with ties, unused and user-defined pieces encode and decode as in sentencepiece") {
    const auto goldens = read_json(text_data + "small_model_goldens.json");
    LineGenerator generator(goldens["seed"]);
    REQUIRE(goldens["models"].size() == 150);
    for (const auto& description : goldens["models"]) {
        const std::string file = build_small_model(description);
        const auto model = Tokenizer::parse(std::as_bytes(std::span(file)), "small");
        BlockHash encoded, decoded;
        for (int i = 0; i < goldens["texts"]; ++i) {
            const Tokens tokens = model.encode(random_text(generator), {.bos = false});
            encoded.add_tokens(tokens);
            decoded.add_text(model.decode(tokens));
        }
        CAPTURE(description.dump());
        CHECK(encoded.hex() == description["encoded"]);
        CHECK(decoded.hex() == description["decoded"]);
    }
}

TEST_CASE("the highest score is merged first, and of equals the leftmost") {
    ModelBuilder builder;
    builder.piece("a", -9).piece("b", -9).piece("c", -9).piece("ab", -2).piece("bc", -1).piece("aa", -3);
    CHECK(encode(builder, "abc") == Tokens{3, 7});
    CHECK(encode(builder, "aaa") == Tokens{8, 3});
    CHECK(encode(builder, "aaaab") == Tokens{8, 3, 6});
    builder.piece("ca", -1);
    CHECK(encode(builder, "bca") == Tokens{7, 3});
}

TEST_CASE("a merge of a character that is itself no piece takes place") {
    CHECK(encode(ModelBuilder().piece("xy"), "xyx") == Tokens{3, 0});
}

TEST_CASE("a run of unknown characters is one unknown piece, unless there are bytes") {
    CHECK(encode(ModelBuilder().piece("a"), "xyazz") == Tokens{0, 3, 0});
    CHECK(encode(ModelBuilder().piece("a").byte_pieces(), "a\xC3\xA9") == Tokens{3, 4 + 0xC3, 4 + 0xA9});
}

TEST_CASE("unused pieces are taken apart again, also those within another") {
    ModelBuilder builder;
    builder.piece("a", -9).piece("b", -9).piece("ab", -1, PieceType::unused).piece("abab", -2, PieceType::unused);
    CHECK(encode(builder, "abab") == Tokens{3, 4, 3, 4});
    builder.piece("abb", -2);
    CHECK(encode(builder, "abb") == Tokens{7});
}

TEST_CASE("an encoder that has seen a longer text encodes the next one alike") {
    const Vocabulary vocabulary(ModelBuilder().piece("a", -2).piece("aa", -1).parse());
    BytePairEncoder encoder(vocabulary);
    Tokens tokens;
    encoder.encode("aaaaaaaaaaaaa", tokens);
    tokens.clear();
    encoder.encode("aaa", tokens);
    CHECK(tokens == Tokens{4, 3});
    encoder.encode("", tokens);
    CHECK(tokens.size() == 2);
}

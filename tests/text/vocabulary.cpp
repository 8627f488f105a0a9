#include <mistral/text/vocabulary.hpp>

#include <doctest/doctest.h>

#include <string>

#include <text/model_builder.hpp>

using namespace mistral;

namespace {

const std::string blank(piece_blank);

}  // namespace

TEST_CASE("the higher the score, the lower the rank, and pieces of one score share it") {
    const Vocabulary vocabulary(ModelBuilder().piece("a", -2).piece("b", -1).piece("c", -2).piece("d", 0).parse());
    CHECK(vocabulary.rank(6) == 0);
    CHECK(vocabulary.rank(4) == 1);
    CHECK(vocabulary.rank(3) == 2);
    CHECK(vocabulary.rank(5) == 2);
}

TEST_CASE("only text is merged: neither control pieces nor the unknown piece nor bytes have a rank") {
    const Vocabulary vocabulary(ModelBuilder().byte_pieces().piece("a").parse());
    CHECK(vocabulary.rank(0) == Vocabulary::unmerged);
    CHECK(vocabulary.rank(1) == Vocabulary::unmerged);
    CHECK(vocabulary.rank(3 + 65) == Vocabulary::unmerged);
    CHECK(vocabulary.rank(3 + 256) == 0);
    CHECK(vocabulary.longest_merge() == 1);
}

TEST_CASE("words are apart unless some piece has a blank after another character") {
    const auto apart = [](const std::string& piece) {
        return Vocabulary(ModelBuilder().piece("a").piece(piece).parse()).words_are_apart();
    };
    CHECK(apart(blank + "ab"));
    CHECK(apart(blank + blank + "a"));
    CHECK(apart(blank + blank));
    CHECK_FALSE(apart("a" + blank));
    CHECK_FALSE(apart(blank + "a" + blank));
    CHECK_FALSE(apart(blank + "a" + blank + "b"));
}

TEST_CASE("the surface of a piece is the bytes that it stands for") {
    ModelBuilder builder;
    builder.byte_pieces().piece(blank + "a" + blank + blank + "b" + blank).piece("x", 0, PieceType::user_defined);
    builder.trainer_spec.bytes(44, "?");
    const Vocabulary vocabulary(builder.parse());
    CHECK(vocabulary.surface(0) == "?");
    CHECK(vocabulary.surface(1).empty());
    CHECK(vocabulary.surface(3) == std::string(1, '\0'));
    CHECK(vocabulary.surface(3 + 255) == "\xFF");
    CHECK(vocabulary.surface(3 + 256) == " a  b ");
    CHECK(vocabulary.surface(3 + 257) == "x");
}

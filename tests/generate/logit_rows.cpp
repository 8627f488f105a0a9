#include <mistral/generate/logit_rows.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace mistral;

namespace {

/// Row i is {10 * i, 10 * i + 1}.
LogitRows<float> filled(Index position, const std::vector<Token>& draft) {
    LogitRows<float> logits(2);
    const auto rows = logits.rows(static_cast<Index>(draft.size()));
    for (Index row = 0; row < rows.rows(); ++row)
        for (Index col = 0; col < 2; ++col) rows.row(row)[col] = static_cast<float>(10 * row + col);
    logits.hold(position, draft);
    return logits;
}

}  // namespace

TEST_CASE("nothing is held before it was written, and nothing after it was cleared") {
    LogitRows<float> logits(2);
    CHECK_FALSE(logits.holds(0));
    CHECK_FALSE(logits.holds(1));
    CHECK(logits.front().size() == 2);
    logits = filled(3, {5, 6});
    logits.clear();
    for (Index position = 0; position < 7; ++position) CHECK_FALSE(logits.holds(position));
}

TEST_CASE("a draft of n tokens holds n + 1 rows, from the position that it is for on") {
    const auto logits = filled(3, {5, 6});
    CHECK_FALSE(logits.holds(2));
    CHECK_FALSE(logits.holds(6));
    for (Index position = 3; position < 6; ++position) {
        REQUIRE(logits.holds(position));
        CHECK(logits.at(position).size() == 2);
        CHECK(logits.at(position)[1] == static_cast<float>(10 * (position - 3) + 1));
    }
}

TEST_CASE("a token was drafted where it stands in the draft, nowhere else") {
    const auto logits = filled(3, {5, 6});
    CHECK(logits.drafted(5, 3));
    CHECK(logits.drafted(6, 4));
    CHECK_FALSE(logits.drafted(6, 3));
    CHECK_FALSE(logits.drafted(5, 2));
    CHECK_FALSE(logits.drafted(6, 5));
    CHECK_FALSE(filled(3, {}).drafted(5, 3));
}

TEST_CASE("a draft that is dropped from a position on keeps the rows up to there") {
    auto logits = filled(3, {5, 6, 7});
    logits.drop_draft(7);  // holds nothing
    CHECK(logits.holds(6));
    logits.drop_draft(4);
    CHECK(logits.holds(4));
    CHECK_FALSE(logits.holds(5));
    CHECK(logits.drafted(5, 3));
    CHECK_FALSE(logits.drafted(6, 4));
    CHECK(logits.at(4)[0] == 10);
}

TEST_CASE("room for fewer rows or more leaves what is held") {
    auto logits = filled(3, {5});
    static_cast<void>(logits.rows(9));
    static_cast<void>(logits.rows());
    REQUIRE(logits.holds(4));
    CHECK(logits.at(4)[0] == 10);
    CHECK(logits.at(3)[1] == 1);
}

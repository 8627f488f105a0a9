#include <mistral/text/piece_matcher.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <text/line_generator.hpp>

using namespace mistral;

namespace {

Token matched(const PieceMatcher& matcher, std::string_view text) {
    const auto match = matcher.longest_prefix_of(text);
    return match ? match->token : -1;
}

}  // namespace

TEST_CASE("the longest piece that a text starts with is found") {
    const PieceMatcher matcher({{"ab", 1}, {"a", 2}, {"abcd", 3}, {"b", 4}, {"\xFF", 5}});
    CHECK(matched(matcher, "abcde") == 3);
    CHECK(matched(matcher, "abce") == 1);
    CHECK(matched(matcher, "abc") == 1);
    CHECK(matched(matcher, "ac") == 2);
    CHECK(matched(matcher, "a") == 2);
    CHECK(matched(matcher, "ba") == 4);
    CHECK(matched(matcher, "\xFF") == 5);
    CHECK(matched(matcher, "ca") == -1);
    CHECK(matched(matcher, "") == -1);
    CHECK(matcher.longest_prefix_of("abx")->size == 2);
}

TEST_CASE("no pieces match nothing") {
    CHECK(matched(PieceMatcher(), "a") == -1);
}

TEST_CASE("random pieces are found as a search through all of them finds them") {
    LineGenerator random(3);
    const auto text = [&](std::uint64_t longest) {
        std::string letters(1 + random.below(longest), 'a');
        for (char& letter : letters) letter = static_cast<char>("ab\x80\xFF"[random.below(4)]);
        return letters;
    };
    int wrong = 0, found = 0;
    for (int round = 0; round < 200; ++round) {
        std::vector<std::string> pieces;
        std::vector<std::pair<std::string_view, Token>> listed;
        for (int i = 0; i < 12; ++i) pieces.push_back(text(5));
        std::sort(pieces.begin(), pieces.end());
        pieces.erase(std::unique(pieces.begin(), pieces.end()), pieces.end());
        for (const std::string& piece : pieces) listed.emplace_back(piece, static_cast<Token>(listed.size()));
        const PieceMatcher matcher(listed);
        for (int i = 0; i < 50; ++i) {
            const std::string searched = text(8);
            Token expected = -1;
            std::size_t longest = 0;
            for (const auto& [piece, token] : listed)
                if (searched.starts_with(piece) && piece.size() > longest) expected = token, longest = piece.size();
            wrong += matched(matcher, searched) != expected;
            found += expected >= 0;
        }
    }
    CHECK(wrong == 0);
    CHECK(found > 1000);
}

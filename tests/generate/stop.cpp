#include <mistral/generate/stop.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "tiny_model.hpp"

using namespace mistral;

namespace {

struct Streamed {
    std::string text;
    bool found = false;

    friend bool operator==(const Streamed&, const Streamed&) = default;
};

Streamed stream(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
    StopStrings search(stops);
    Streamed result;
    for (const std::string& piece : pieces) result.text += search.push(piece);
    result.text += search.finish();
    result.found = search.found();
    return result;
}

/// The definition: the text before the stop string that ends first, and of those that end there, starts first.
Streamed plain_search(const std::vector<std::string>& stops, const std::string& text) {
    for (std::size_t end = 0; end <= text.size(); ++end) {
        std::size_t longest = 0;
        for (const std::string& stop : stops)
            if (std::string_view(text).substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
        if (longest > 0) return {text.substr(0, end - longest), true};
    }
    return {text, false};
}

}  // namespace

TEST_CASE("every reason has a name") {
    CHECK(name(StopReason::none) == "none");
    CHECK(name(StopReason::max_tokens) == "max_tokens");
    CHECK(name(StopReason::stop_token) == "stop_token");
    CHECK(name(StopReason::stop_string) == "stop_string");
    CHECK(name(StopReason::cancelled) == "cancelled");
    CHECK(name(StopReason::context_full) == "context_full");
}

TEST_CASE("a stop string ends the text, within a piece and across pieces") {
    CHECK(stream({"END"}, {"some END text"}) == Streamed{"some ", true});
    CHECK(stream({"END"}, {"some E", "N", "D text"}) == Streamed{"some ", true});
    CHECK(stream({"END"}, {"some EN", "d text"}) == Streamed{"some ENd text", false});
    CHECK(stream({"END"}, {"END"}) == Streamed{"", true});
    CHECK(stream({"END"}, {"and EN"}) == Streamed{"and EN", false});
    CHECK(stream({}, {"any ", "text"}) == Streamed{"any text", false});
}

TEST_CASE("the start of a stop string that comes twice is searched again") {
    CHECK(stream({"aab"}, {"a", "a", "a", "b"}) == Streamed{"a", true});
    CHECK(stream({"abac"}, {"abab", "acx"}) == Streamed{"ab", true});
}

TEST_CASE("the stop string that is complete first ends the text, of several the longest") {
    CHECK(stream({"world", "lo"}, {"hello world"}) == Streamed{"hel", true});
    CHECK(stream({"abcd", "bc"}, {"abcd"}) == Streamed{"a", true});
    CHECK(stream({"c", "abc", "bc"}, {"xabc"}) == Streamed{"x", true});
}

TEST_CASE("text is held back as long as it may become a stop string, and no longer") {
    StopStrings search({"\n\nUser:"});
    CHECK(search.push("Hello.\n") == "Hello.");
    CHECK(search.push("So") == "\nSo");
    CHECK(search.push("\n\n") == "");
    CHECK(search.push("\n") == "\n");
    CHECK(search.push("User") == "");
    CHECK_FALSE(search.found());
    CHECK(search.push(": what") == "");
    CHECK(search.found());
    CHECK(search.push("more") == "");
    CHECK(search.finish() == "");
}

TEST_CASE("whole characters come out where whole characters went in") {
    StopStrings search({"\u00e8!", "\U0001F600"});
    CHECK(search.push("\u00e9") == "\u00e9");  // its first byte is that of the stop string too
    CHECK(search.push("\u00e8") == "");
    CHECK(search.push("\u00e9") == "\u00e8\u00e9");
    CHECK(search.push("\U0001F601") == "\U0001F601");
    CHECK(search.push("x\U0001F600y") == "x");
    CHECK(search.found());
}

TEST_CASE("an impossible stop string is refused") {
    CHECK(message_of([] { StopStrings({"a", ""}); }) == "stop_strings[1] is empty, expected some text");
    CHECK(message_of([] { StopStrings({"\x80"}); }) == "stop_strings[0] starts inside a UTF-8 character");
}

TEST_CASE("what is found does not depend on where the pieces end") {
    Random random(17);
    int different = 0;
    int found = 0;
    for (int round = 0; round < 3000; ++round) {
        const auto letters = [&](double most) {
            std::string text(1 + static_cast<std::size_t>(most * random.uniform()), 'a');
            for (char& c : text) c = random.uniform() < 0.5 ? 'a' : 'b';
            return text;
        };
        std::vector<std::string> stops;
        for (int i = 0; i < 3; ++i) stops.push_back(letters(9));
        std::string text = letters(60);
        const Streamed expected = plain_search(stops, text);
        std::vector<std::string> pieces;
        for (std::size_t i = 0; i < text.size();) {
            const auto size = static_cast<std::size_t>(6 * random.uniform());
            pieces.push_back(text.substr(i, size));
            i += size;
        }
        different += stream(stops, pieces) != expected;
        found += expected.found;
    }
    CHECK(different == 0);
    CHECK(found > 100);
    CHECK(found < 2900);
}

TEST_CASE("a long stop string that almost matches again and again is searched in linear time") {
    const std::string stop = std::string(100000, 'a') + "b";
    StopStrings search({stop});
    std::size_t size = 0;
    for (int i = 0; i < 100; ++i) size += search.push(std::string(10000, 'a')).size();
    CHECK(size == 900000);
    CHECK(search.push("b").empty());
    CHECK(search.found());
}

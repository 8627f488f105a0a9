#include <mistral/generate/prompt_lookup.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <span>
#include <vector>

#include "tiny_model.hpp"

using namespace mistral;

namespace {

using Tokens = std::vector<Token>;

Tokens draft(PromptLookup& lookup, const Tokens& history, Index limit = 16) {
    const auto draft = lookup.draft(history, limit);
    return {draft.begin(), draft.end()};
}

/// What a lookup of its own drafts.
Tokens first_draft(const Tokens& history, Index most, Index limit = 16) {
    PromptLookup lookup(most);
    return draft(lookup, history, limit);
}

/// Tells the lookup that the first `count` tokens of a draft came true, and then another one.
void accept(PromptLookup& lookup, const Tokens& draft, Index count) {
    for (Index i = 0; i < count; ++i) lookup.push(draft[static_cast<std::size_t>(i)]);
    lookup.push(-1);
}

const Tokens periodic{1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3};

}  // namespace

TEST_CASE("a draft is what followed the newest tokens before") {
    CHECK(first_draft(periodic, 4) == Tokens{4, 5, 6, 7});
    CHECK(first_draft({9, 1, 2, 7, 8, 1, 2}, 2) == Tokens{7, 8});
}

TEST_CASE("more tokens in common count more, up to eight, and of places with as many the newest") {
    CHECK(first_draft({9, 1, 2, 3, 4, 5, 6, 7, 8, 20, 1, 2, 3, 4, 5, 6, 7, 8}, 1) == Tokens{20});
    CHECK(first_draft({1, 2, 3, 4, 5, 6, 7, 8, 20, 9, 2, 3, 4, 5, 6, 7, 8, 21, 1, 2, 3, 4, 5, 6, 7, 8}, 1) ==
          Tokens{20});
    CHECK(first_draft({0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 9, 1, 2, 3, 4, 5, 6, 7, 8, 21, 0, 1, 2, 3, 4, 5, 6, 7, 8}, 1) ==
          Tokens{21});
    CHECK(first_draft({1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3}, 1) == Tokens{7});
    CHECK(first_draft({1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3}, 1) == Tokens{8});
    CHECK(first_draft({5, 2, 3, 7, 6, 2, 3, 8, 1, 2, 3}, 1) == Tokens{8});
}

TEST_CASE("a draft longer than what followed goes on with itself") {
    CHECK(first_draft({4, 7, 8, 9, 7, 8, 9}, 8) == Tokens{7, 8, 9, 7, 8, 9, 7, 8});
    CHECK(first_draft({4, 7, 7, 7}, 3) == Tokens{7, 7, 7});
}

TEST_CASE("the first draft is as long as any to come, later ones need an occurrence") {
    CHECK(first_draft({1, 2, 3}, 4) == Tokens{3, 3, 3, 3});
    CHECK(first_draft({1}, 4, 2) == Tokens{1, 1});
    PromptLookup lookup(4);
    accept(lookup, draft(lookup, periodic), 4);
    CHECK(draft(lookup, {1, 2, 3}).empty());
    CHECK(draft(lookup, {3, 1, 2, 3}).empty());  // one token in common is not enough
    CHECK(draft(lookup, periodic) == Tokens{4, 5, 6, 7});
}

TEST_CASE("no draft is longer than its limit or the most that was asked for") {
    CHECK(first_draft(periodic, 4, 0).empty());
    CHECK(first_draft(periodic, 4, -1).empty());
    CHECK(first_draft(periodic, 4, 3).size() == 3);
    CHECK(first_draft(periodic, 0).empty());
    CHECK(first_draft(periodic, 1).size() == 1);
}

TEST_CASE("only the newest tokens are searched") {
    Tokens history{1, 2, 3, 4};
    PromptLookup near(4);
    PromptLookup far(4);
    for (PromptLookup* lookup : {&near, &far}) accept(*lookup, draft(*lookup, periodic), 4);
    for (Token token = 100; token < 100 + PromptLookup::reach - 7; ++token) history.push_back(token);
    history.insert(history.end(), {1, 2, 3});
    REQUIRE(static_cast<Index>(history.size()) == PromptLookup::reach);
    CHECK(draft(near, history) == Tokens{4, 100, 101, 102});
    history.insert(history.end() - 3, {99, 98});  // now 3 and 4 alone are within reach
    CHECK(draft(far, history).empty());
}

TEST_CASE("drafts shrink to what came true, and double while all does") {
    PromptLookup lookup(8);
    const auto length_after = [&](Index accepted) {
        accept(lookup, draft(lookup, periodic), accepted);
        PromptLookup next = lookup;
        return draft(next, periodic).size();
    };
    CHECK(length_after(8) == 8);
    CHECK(length_after(3) == 3);
    CHECK(length_after(2) == 2);
    CHECK(length_after(2) == 4);
    CHECK(length_after(4) == 8);
    CHECK(length_after(1) == 1);
    CHECK(length_after(1) == 2);
}

TEST_CASE("while nothing comes true, ever more drafts are left out, but no more than 31 in a row") {
    PromptLookup lookup(4);
    const auto pause_after = [&](Index accepted) {
        Tokens made = draft(lookup, periodic);
        REQUIRE_FALSE(made.empty());
        accept(lookup, made, accepted);
        int pause = 0;
        for (PromptLookup next = lookup; draft(next, periodic).empty(); ++pause) lookup = next;
        return pause;
    };
    for (const int pause : {1, 3, 7, 15, 31, 31}) CHECK(pause_after(0) == pause);
    CHECK(pause_after(1) == 0);
    CHECK(pause_after(0) == 1);
}

TEST_CASE("drafted and accepted tokens are counted") {
    PromptLookup lookup(4);
    CHECK(lookup.drafted() == 0);
    accept(lookup, draft(lookup, periodic), 3);
    CHECK(lookup.drafted() == 4);
    CHECK(lookup.accepted() == 3);
    accept(lookup, draft(lookup, periodic), 3);
    CHECK(lookup.drafted() == 7);
    CHECK(lookup.accepted() == 6);
    lookup.push(4);  // follows no draft
    CHECK(lookup.accepted() == 6);
}

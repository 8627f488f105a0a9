#include <mistral/generate/token_history.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "tiny_model.hpp"

using namespace mistral;

TEST_CASE("the newest tokens are kept in order, in memory that does not grow, through appends and rewinds") {
    Random random(4);
    constexpr Index capacity = 10;
    TokenHistory history(capacity);
    std::vector<Token> all;
    const Token* memory = nullptr;
    int wrong = 0;
    for (int step = 0; step < 2000; ++step) {
        const auto newest = history.last(capacity);
        if (random.uniform() < 0.3 && newest.size() > 3) {
            const Index back = static_cast<Index>(3 * random.uniform()) + 1;
            history.rewind_to(history.end() - back);
            all.resize(all.size() - static_cast<std::size_t>(back));
        } else {
            const auto more = tiny::tokens(static_cast<Index>(11 * random.uniform()), static_cast<std::uint64_t>(step));
            history.append(more);
            all.insert(all.end(), more.begin(), more.end());
        }
        wrong += history.end() != static_cast<Index>(all.size());
        for (const Index count : {0, 1, 5, 10, 1000}) {
            const auto last = history.last(count);
            wrong += !std::equal(last.rbegin(), last.rend(), all.rbegin());
            wrong += static_cast<Index>(last.size()) > std::min(count, capacity);
        }
        const auto from = history.from(history.begin());
        if (!from.empty()) {
            wrong += memory != nullptr && memory != from.data();
            memory = from.data();
        }
    }
    CHECK(wrong == 0);
    CHECK(all.size() > 1000);
}

TEST_CASE("a history that was not rewound gives as many tokens as it was made for") {
    TokenHistory history(5);
    for (Index i = 0; i < 100; ++i) {
        CHECK(static_cast<Index>(history.last(5).size()) == std::min<Index>(i, 5));
        history.append(std::vector<Token>{static_cast<Token>(i)});
    }
}

TEST_CASE("a copy of a history is independent of it") {
    TokenHistory history(5);
    history.append(std::vector<Token>{1, 2, 3});
    TokenHistory copy(history);
    copy.append(std::vector<Token>{4});
    history.rewind_to(1);
    CHECK(copy.end() == 4);
    CHECK(copy.last(2)[0] == 3);
    copy = history;
    CHECK(copy.end() == 1);
    copy.reset();
    CHECK(copy.end() == 0);
    CHECK(copy.last(5).empty());
    copy.reset(std::vector<Token>{8, 9}, 77);
    CHECK(copy.begin() == 75);
    CHECK(copy.from(76)[0] == 9);
}

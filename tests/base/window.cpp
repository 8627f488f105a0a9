#include <mistral/base/window.hpp>

#include <doctest/doctest.h>

using namespace mistral;

TEST_CASE("a query sees window keys, its own included, and none after itself") {
    for (const Index size : {1, 2, 3, 4, 7})
        for (Index query = 0; query < 20; ++query) {
            Index seen = 0;
            for (Index key = 0; key < 30; ++key) {
                const bool sees = Window{size}.sees(query, key);
                CHECK(sees == (query - size < key && key <= query));
                seen += sees;
            }
            CHECK(seen == std::min(size, query + 1));
        }
}

TEST_CASE("the first visible key is the lowest one seen, never below zero") {
    CHECK(Window{3}.first_visible(0) == 0);
    CHECK(Window{3}.first_visible(2) == 0);
    CHECK(Window{3}.first_visible(3) == 1);
    CHECK(Window{1}.first_visible(1'000'000'000'000) == 1'000'000'000'000);
}

TEST_CASE("without a window everything before is seen, at any position") {
    CHECK(Window{}.first_visible(0) == 0);
    CHECK(Window{}.first_visible(1'000'000'000'000) == 0);
    CHECK(Window{no_window}.sees(5, 0));
    CHECK_FALSE(Window{no_window}.sees(5, 6));
}

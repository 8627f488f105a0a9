#include <mistral/base/shape.hpp>

#include <doctest/doctest.h>

using namespace mistral;

TEST_CASE("what the type leaves open is completed at run time") {
    constexpr Shape fixed{.window = 256, .kv_heads = 2};
    const Shape shape = resolve(fixed, {.query_heads = 8, .head_dim = 64});
    CHECK(shape == Shape{.window = 256, .query_heads = 8, .kv_heads = 2, .head_dim = 64});
    CHECK(shape.group() == 4);
    CHECK(resolve(fixed, {.window = 256}).head_dim == Dynamic);
}

TEST_CASE("a contradiction is refused by name and number") {
    CHECK_THROWS_WITH_AS((void)resolve(Shape{.head_dim = 64}, {.head_dim = 128}),
                         "head_dim is 128, but the type fixes it to 64", Error);
    CHECK_THROWS_WITH_AS((void)resolve(Shape{.window = 4}, {.window = no_window}),
                         "window is 9223372036854775807, but the type fixes it to 4", Error);
}

TEST_CASE("numbers that make no sense are refused") {
    CHECK_THROWS_WITH_AS((void)resolve({}, {.window = 0}), "window is 0, expected a positive number", Error);
    CHECK_THROWS_WITH_AS((void)resolve({}, {.kv_heads = -7}), "kv_heads is -7, expected a positive number", Error);
    CHECK_THROWS_WITH_AS((void)resolve({}, {.query_heads = 8, .kv_heads = 3}),
                         "query_heads is 8, expected a multiple of kv_heads, which is 3", Error);
}

TEST_CASE("a shape is a template value") {
    CHECK([]<Shape shape>() { return shape.group(); }.operator()<Shape{.query_heads = 6, .kv_heads = 2}>() == 3);
}

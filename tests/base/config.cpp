#include <mistral/base/config.hpp>

#include <doctest/doctest.h>

using namespace mistral;

TEST_CASE("a list of windows repeats over the layers") {
    const Config config{.query_heads = 4, .kv_heads = 2, .head_dim = 8, .windows = {no_window, 32, 32, 32}};
    CHECK(config.window(0) == no_window);
    CHECK(config.window(3) == 32);
    CHECK(config.window(4) == no_window);
    CHECK(config.shape(5) == Shape{.window = 32, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
}

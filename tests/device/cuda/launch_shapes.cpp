#include <mistral/device/cuda/launch_shapes.hpp>

#include <doctest/doctest.h>

using namespace mistral;
using namespace mistral::cuda;

namespace {

void check_limits(const GridSize& grid) {
    CHECK(grid.x >= 1);
    CHECK(grid.x <= 2147483647u);
    CHECK(grid.y >= 1);
    CHECK(grid.y <= 65535u);
}

}  // namespace

TEST_CASE("grids over elements cover every column, and are within CUDA's limits") {
    for (const Index rows : {Index{1}, Index{7}, Index{65535}, Index{65536}, Index{1} << 24})
        for (const Index cols : {Index{1}, Index{255}, Index{1024}, Index{1025}, Index{1} << 31})
            for (const Index width : {1, 4}) {
                const GridSize grid = elementwise_grid(rows, cols, width);
                check_limits(grid);
                const Index of_block = Index{elementwise_threads} * width;
                CHECK(grid.x * of_block >= cols);
                CHECK((grid.x - 1) * of_block < cols);
                CHECK(grid.y <= rows);
            }
}

TEST_CASE("few tokens' heads are shared out among blocks, and many tokens' are not") {
    CHECK(rotary_blocks(1, 40) == 40);
    CHECK(rotary_blocks(4, 40) == 16);
    CHECK(rotary_blocks(64, 40) == 1);
    CHECK(rotary_blocks(100'000, 1) == 1);
}

TEST_CASE("blocks of products have every group of rows once") {
    for (const Index groups : {1, 2, 5, 4096, 65'535, 65'536, 262'144, 10'000'000})
        for (const int warps : {1, 2, 4}) {
            const Index blocks = multiply_blocks(groups, warps);
            CHECK(blocks * most_multiply_warps / warps >= groups);
            CHECK((blocks - 1) * most_multiply_warps / warps < groups);
        }
}

TEST_CASE("blocks are whole warps of at most 1024 threads") {
    for (const Index n : {1, 31, 32, 33, 128, 4095, 4096, 4097, 1'000'000}) {
        for (const unsigned threads : {norm_threads(n, 1), norm_threads(n, 4), rotary_threads(n)}) {
            CHECK(threads % 32 == 0);
            CHECK(threads >= 32);
            CHECK(threads <= 1024);
        }
        CHECK(most_multiply_warps % multiply_warps(n, n) == 0);
    }
}

TEST_CASE("products of few rows get more warps for each, so that all multiprocessors have work") {
    constexpr Index pieces = 512;
    CHECK(multiply_warps(256, pieces) == 4);
    CHECK(multiply_warps(1024, pieces) == 2);
    CHECK(multiply_warps(2048, pieces) == 1);
    for (const Index groups : {512, 1024, 2048, 3584, 16000}) CHECK(groups * multiply_warps(groups, pieces) >= 2048);
}

TEST_CASE("every warp of a product has a piece, and no more than its share of them") {
    CHECK(multiply_warps(1, 0) == 1);
    CHECK(multiply_warps(1, 128) == 1);
    CHECK(multiply_warps(1, 129) == 2);
    CHECK(multiply_warps(1, 256) == 2);
    CHECK(multiply_warps(1, 257) == 4);
    CHECK(multiply_warps(1, 100'000) == 4);
}

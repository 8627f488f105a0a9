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
    CHECK(grid.z >= 1);
    CHECK(grid.z <= 65535u);
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

TEST_CASE("grids of products have every row and every token once") {
    for (const Index rows : {1, 2, 5, 4096, 131'070, 131'071, 262'144, 10'000'000})
        for (const Index tokens : {1, 8, 9, 100'000})
            for (const Index block_rows : {2, 4}) {
                const GridSize grid = multiply_grid(rows, block_rows, tokens, 8);
                check_limits(grid);
                CHECK(Index{grid.x} * 8 >= tokens);
                CHECK((Index{grid.x} - 1) * 8 < tokens);
                CHECK(Index{grid.y} * grid.z * block_rows >= rows);
                CHECK(Index{grid.y} * (grid.z - 1) * block_rows < rows);
            }
}

TEST_CASE("blocks are whole warps of at most 1024 threads") {
    for (const Index n : {1, 31, 32, 33, 128, 4095, 4096, 4097, 1'000'000}) {
        for (const unsigned threads :
             {norm_threads(n, 1), norm_threads(n, 4), rotary_threads(n), multiply_threads(n)}) {
            CHECK(threads % 32 == 0);
            CHECK(threads >= 32);
            CHECK(threads <= 1024);
        }
        CHECK(multiply_threads(n) <= most_multiply_threads);
    }
}

TEST_CASE("products of few rows get more warps for each, so that all multiprocessors have work") {
    CHECK(multiply_threads(256) == 128);
    CHECK(multiply_threads(1024) == 64);
    CHECK(multiply_threads(2048) == 32);
    for (const Index groups : {512, 1024, 2048, 3584, 16000}) CHECK(groups * multiply_threads(groups) >= 2048 * 32);
}

#include <mistral/device/cuda/attention_shapes.hpp>
#include <mistral/device/cuda/kernels.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <span>

namespace mistral::cuda {
namespace {

TEST_CASE("there are as many blocks as the ranges that queries see, wherever they stand, and no more") {
    const RangeBlocks blocks{2, 128};
    for (const Index window : {Index{1}, Index{2}, Index{63}, Index{64}, Index{65}, Index{66}, Index{200}, no_window})
        for (const Index tokens : {1, 2, 16})
            for (const Index capacity : {1, 63, 64, 100})
                for (const Index first_token : {0, 32}) {
                    Index most = 0;
                    for (Index position = 500; position < 500 + blocks.keys(); ++position) {
                        const Index first =
                            std::max(Window{window}.first_visible(position + first_token), position - capacity);
                        const Index last = position + first_token + tokens - 1;
                        most = std::max(most, last / blocks.keys() - first / blocks.keys() + 1);
                    }
                    CAPTURE(window);
                    CAPTURE(tokens);
                    CAPTURE(capacity);
                    CHECK(blocks.ranges(first_token, tokens, capacity, window) == most);
                }
}

TEST_CASE("a decode step of Mistral 7B has blocks for each multiprocessor, and several fit into one at once") {
    const RangeBlocks blocks{2, 128};
    CHECK(8 * blocks.ranges(0, 1, 4096, 4096) >= 3 * 132);
    CHECK(3 * (blocks.shared_bytes() + 1024) <= 164 << 10);                                // of compute capability 8.0
    CHECK(RangeBlocks::per_multiprocessor * (blocks.shared_bytes() + 1024) <= 228 << 10);  // of compute capability 9.0
}

TEST_CASE("shared memory suffices for the longest head on every GPU from compute capability 8.0 on") {
    for (const Index element_bytes : {2, 4})
        for (Index head_dim = 1; head_dim <= longest_head; ++head_dim)
            CHECK(RangeBlocks{element_bytes, head_dim}.shared_bytes() <= 99 << 10);
    CHECK(2 * (TileBlocks{128}.shared_bytes() + 1024) <= 164 << 10);
    CHECK(TileBlocks{128}.shared_bytes() <= 99 << 10);
}

TEST_CASE("rows in shared memory lie an odd number of chunks apart") {
    for (const Index head_dim : {1, 7, 8, 16, 20, 64, 96, 128, 256}) {
        const RangeBlocks blocks{2, head_dim};
        CHECK(blocks.row_stride() / RangeBlocks::chunk_bytes % 2 == 1);
        CHECK(blocks.row_stride() >= 2 * head_dim);
    }
}

TEST_CASE("tiles hold all heads of a group") {
    CHECK(TileBlocks::tiles(17, 4) == 1);
    CHECK(TileBlocks::tiles(32, 4) == 1);
    CHECK(TileBlocks::tiles(33, 4) == 2);
    CHECK(TileBlocks::tiles(4096, 4) == 128);
}

TEST_CASE("scratch memory depends on a launch's tokens and on what they see") {
    const Shape shape{.window = 4096, .query_heads = 32, .kv_heads = 8, .head_dim = 128};
    const RangeBlocks blocks{2, 128};
    CHECK(blocks.most_ranges(1, 4096, shape.window) == 65);
    CHECK(blocks.most_ranges(2000, 4096, shape.window) == 66);
    CHECK(blocks.scratch_bytes(1, shape.query_heads, 65) == 32 * 65 * 130 * 4);
    const auto scratch = [&](Index tokens) {
        const CachedRun<bfloat16> run{.tokens = tokens, .store = {.capacity = 4096}};
        return attention_scratch(std::span(&run, 1), shape);
    };
    CHECK(scratch(1) == 32 * 65 * 130 * 4);
    CHECK(scratch(2000) == RangeBlocks::rows * 32 * 66 * 130 * 4);
}

}  // namespace
}  // namespace mistral::cuda

#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/cuda/launch_shapes.hpp>
#include <mistral/scalar/types.hpp>

#include <algorithm>
#include <concepts>

/// How the attention is cut into blocks of threads: numbers that depend on shapes and never on positions, so that what
/// was recorded for one position runs at another.
namespace mistral::cuda {

/// The longest head whose attention the GPU computes.
inline constexpr Index longest_head = 256;

/// A few tokens at a time: a block for each key/value head and range of keys, which are multiples of this length in
/// absolute positions. It fits all keys and values of a range into shared memory; what ranges come to is merged after.
struct RangeBlocks {
    static constexpr int threads = 128;
    static constexpr int per_multiprocessor = 5;  ///< as its shared memory allows at best
    static constexpr Index tokens = 16;           ///< of a sequence at a time; longer runs are taken in parts
    static constexpr Index rows = 32;             ///< of one launch at most, so that scratch memory has a limit
    static constexpr int queries = 4;             ///< scored at a time, each normalised by a warp
    static constexpr int chunk_bytes = 16;        ///< what a thread loads at a time

    Index element_bytes = 0;
    Index head_dim = 0;

    /// Keys of a range, so many that a row of 256 elements takes as much as fits twice into a multiprocessor.
    [[nodiscard]] constexpr Index keys() const { return 128 / element_bytes; }

    /// Chunks of a row of keys or values, padded to whole ones.
    [[nodiscard]] constexpr Index row_chunks() const { return divide_up(head_dim * element_bytes, chunk_bytes); }
    /// Threads that load a row, one chunk each: a power of two, so that others load the next rows.
    [[nodiscard]] constexpr Index row_threads() const {
        Index bits = row_chunks() - 1;  // as std::bit_ceil, of which nvcc 13.0 makes 1 in kernels
        for (const int shift : {1, 2, 4}) bits |= bits >> shift;
        return bits + 1;
    }
    /// Bytes between rows in shared memory: an odd number of chunks, so that eight threads which read one chunk of
    /// eight rows each find them in different banks.
    [[nodiscard]] constexpr Index row_stride() const { return (row_chunks() | 1) * chunk_bytes; }

    /// Floats of a query in shared memory, padded as the keys are.
    [[nodiscard]] constexpr Index query_floats() const { return row_chunks() * chunk_bytes / element_bytes; }

    /// Keys, values, queries, a weight for each query and key, and two elements of each query's sum for each thread.
    [[nodiscard]] constexpr Index shared_bytes() const {
        return 2 * keys() * row_stride() + queries * (query_floats() + keys() + 2 * threads) * Index{sizeof(float)};
    }

    /// Ranges that `tokens` consecutive queries may touch, the first of which stands `first_token` after the run's
    /// begin.
    [[nodiscard]] constexpr Index ranges(Index first_token, Index tokens, Index capacity, Index window) const {
        const Index before = std::min(window - 1, capacity + first_token);
        return (before + tokens + keys() - 2) / keys() + 1;
    }

    /// Floats of what the softmax over a range comes to for one query: weighted sums, the maximum, the total.
    [[nodiscard]] constexpr Index partial_floats() const { return head_dim + 2; }

    /// The most that a part of a run may touch.
    [[nodiscard]] constexpr Index most_ranges(Index run_tokens, Index capacity, Index window) const {
        const Index part = std::min(tokens, run_tokens);
        return ranges(run_tokens - part, part, capacity, window);
    }

    /// Of all queries of a launch, each with so many ranges.
    [[nodiscard]] constexpr Index scratch_bytes(Index launch_rows, Index query_heads, Index ranges) const {
        return launch_rows * query_heads * ranges * partial_floats() * Index{sizeof(float)};
    }
};

/// More tokens: a block for each key/value head and tile of queries, on tensor cores. A query is one head of one token;
/// the heads that share a key/value head lie side by side in a tile.
struct TileBlocks {
    static constexpr int warps = 4;
    static constexpr int threads = warps * 32;
    static constexpr int queries_per_warp = 32;
    static constexpr int queries = warps * queries_per_warp;
    static constexpr int keys = 64;  ///< tiles of keys are multiples of this in absolute positions

    Index head_dim = 0;

    /// What there are such kernels for.
    template <class C>
    static constexpr bool has_kernel = std::same_as<C, half> || std::same_as<C, bfloat16>;
    [[nodiscard]] static constexpr bool takes(Index head_dim) { return head_dim == 64 || head_dim == 128; }

    /// The queries, a tile of keys, and one of values, in 16 bits each; and which keys each query sees.
    [[nodiscard]] constexpr Index shared_bytes() const {
        return (queries + 2 * keys) * head_dim * 2 + queries * 2 * Index{sizeof(Index)};
    }

    [[nodiscard]] static constexpr Index tiles(Index tokens, Index group) { return divide_up(tokens * group, queries); }
};

}  // namespace mistral::cuda

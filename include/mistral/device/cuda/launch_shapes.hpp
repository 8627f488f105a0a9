#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/base/types.hpp>

#include <algorithm>

/// How many blocks of threads do what: arithmetic of shapes alone, so that it can be tested without a GPU.
namespace mistral::cuda {

/// Blocks of a grid. CUDA takes 2^31 - 1 of them in x, and 65 535 in y.
struct GridSize {
    unsigned x = 1;
    unsigned y = 1;
};

inline constexpr Index largest_grid_y = 65535;

inline constexpr unsigned elementwise_threads = 256;

/// Of what is done to single elements of [rows, cols]: a thread takes `width` columns of every row that is congruent
/// to its block's y modulo the grid's.
[[nodiscard]] constexpr GridSize elementwise_grid(Index rows, Index cols, Index width) {
    return {static_cast<unsigned>(divide_up(cols, Index{elementwise_threads} * width)),
            static_cast<unsigned>(std::min(rows, largest_grid_y))};
}

/// Threads that normalise a row: enough for all its elements at once, in whole warps, as far as a block goes.
[[nodiscard]] constexpr unsigned norm_threads(Index cols, Index width) {
    return static_cast<unsigned>(std::clamp<Index>(divide_up(cols, 32 * width) * 32, 32, 1024));
}

/// Blocks that share the heads of each token, so that few tokens too are turned by many multiprocessors; each computes
/// the token's angles anew.
[[nodiscard]] constexpr Index rotary_blocks(Index tokens, Index heads) {
    return std::clamp<Index>(divide_up(Index{64}, tokens), 1, heads);
}

/// Threads of such a block: four pairs each, in whole warps, as far as a block goes.
[[nodiscard]] constexpr unsigned rotary_threads(Index pairs) {
    return static_cast<unsigned>(std::clamp<Index>(divide_up(pairs, 4 * 32) * 32, 32, 1024));
}

/// Pieces of 16 bytes that a lane of a warp takes of each row before the warp goes on where the others have ended: all
/// of them on their way at the same time.
inline constexpr int chunk_pieces = 4;
inline constexpr int most_multiply_warps = 4;
inline constexpr int multiply_threads = 32 * most_multiply_warps;

/// Warps that share the columns of a few rows, which are so many pieces, where there are so many groups of such rows:
/// no more, each of which has the more to do before they add up their sums, than make 16 for each multiprocessor of
/// a large GPU, and none without a piece.
[[nodiscard]] constexpr int multiply_warps(Index groups_of_rows, Index pieces) {
    constexpr Index pieces_of_warp = 32 * chunk_pieces;
    int warps = 1;
    while (warps < most_multiply_warps && groups_of_rows * warps < 2048 && warps * pieces_of_warp < pieces) warps *= 2;
    return warps;
}

/// Rows of a group: what is loaded of x serves more of them where many tokens make that the larger part.
[[nodiscard]] constexpr int multiply_rows(int block_tokens) {
    return block_tokens < 8 ? 2 : 4;
}

/// Blocks for so many groups of rows that so many warps share each.
[[nodiscard]] constexpr Index multiply_blocks(Index groups_of_rows, int warps) {
    return divide_up(groups_of_rows * warps, most_multiply_warps);
}

/// Blocks that a multiprocessor ought to have room for, which limits their registers.
[[nodiscard]] constexpr int multiply_residents(int block_tokens) {
    return block_tokens == 1 ? 6 : block_tokens < 8 ? 4 : 3;
}

}  // namespace mistral::cuda

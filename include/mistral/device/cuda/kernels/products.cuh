#pragma once

#include <mistral/device/cuda/kernels/elements.cuh>
#include <mistral/device/cuda/kernels/launch.cuh>
#include <mistral/device/cuda/kernels/reduce.cuh>
#include <mistral/device/cuda/launch_shapes.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <cstddef>

/// What products of a few tokens have in common, whatever the weights. A block computes a few rows; these are read in
/// pieces of 16 bytes, `chunk_pieces` by each lane of a warp, after which the warp goes on where the others of the
/// block have ended. Sums so depend on the shape of the weights alone.
namespace mistral::cuda {

/// x [tokens, cols] -> out [tokens, rows].
struct Product {
    Rows<const float> x;
    Rows<float> out;
    int tokens;
    int rows;
    int cols;
    Update update;

    Product(MatrixView<const float> x_view, MatrixView<float> out_view, Update result)
        : x(x_view),
          out(out_view),
          tokens(static_cast<int>(x_view.rows())),
          rows(static_cast<int>(out_view.cols())),
          cols(static_cast<int>(x_view.cols())),
          update(result) {}
};

/// Pieces of each row that a lane has on their way at once: as many as there is room for beside so many sums.
[[nodiscard]] constexpr int pieces_ahead(int sums) {
    return sums <= 8 ? chunk_pieces : sums <= 16 ? 2 : 1;
}

/// What a block computes: some rows for some tokens. Blocks with the same rows follow each other, so that the cache has
/// the weights for all but the first.
struct Block {
    int first_row;
    int first_token;

    __device__ __forceinline__ Block(int rows, int tokens)
        : first_row(static_cast<int>(blockIdx.z * gridDim.y + blockIdx.y) * rows),
          first_token(static_cast<int>(blockIdx.x) * tokens) {}

    /// The activations of the block's token t; where there is none, those of the last one.
    __device__ __forceinline__ const float* x(const Product& product, int t) const {
        return product.x[min(first_token + t, product.tokens - 1)];
    }
};

/// The first piece of a lane.
__device__ __forceinline__ int first_piece() {
    const int warp = static_cast<int>(threadIdx.x) / warp_lanes;
    return warp * (chunk_pieces - 1) * warp_lanes + static_cast<int>(threadIdx.x);
}

/// The piece of a lane that is `ahead` after another: in the same chunk, or in the warp's next one.
template <int ahead>
__device__ __forceinline__ int next_piece(int piece) {
    constexpr int chunk = chunk_pieces * warp_lanes;
    const int next = piece + ahead * warp_lanes;
    const int other_warps = static_cast<int>(blockDim.x) / warp_lanes - 1;
    return ahead == chunk_pieces || next % chunk < warp_lanes ? next + other_warps * chunk : next;
}

/// Calls visit(piece, i) for each i < ahead and the piece of that number after `first` in a lane's chunk.
template <int ahead, class Visit>
__device__ __forceinline__ void for_pieces(int first, int pieces, Visit&& visit) {
#pragma unroll
    for (int i = 0; i < ahead; ++i)
        if (const int piece = first + i * warp_lanes; piece < pieces) visit(piece, i);
}

/// Activations of a token from column `col` on: `whole` vectors, or single elements with zeros from column `cols` on.
template <bool whole, int width>
__device__ __forceinline__ void load_activations(const float* row, int col, int cols, float (&x)[width]) {
    static_assert(width % 4 == 0);
    if constexpr (whole) {
#pragma unroll
        for (int i = 0; i < width; i += 4) widen<float>(load_words<4>(row + col + i), x + i);
    } else {
#pragma unroll
        for (int i = 0; i < width; ++i) x[i] = col + i < cols ? row[col + i] : 0.0f;
    }
}

/// Adds up what the threads of a block summed, times a factor, and writes it or adds it to what stands there.
template <int block_rows, int tokens>
__device__ __forceinline__ void write_sums(const float (&sums)[block_rows][tokens], float factor, const Block& block,
                                           const Product& product) {
    static __shared__ float of_warps[most_multiply_warps][block_rows * tokens];
#pragma unroll
    for (int r = 0; r < block_rows; ++r)
#pragma unroll
        for (int t = 0; t < tokens; ++t) {
            const float sum = sum_of_warp(sums[r][t]);
            if (threadIdx.x % warp_lanes == 0) of_warps[threadIdx.x / warp_lanes][r * tokens + t] = sum;
        }
    __syncthreads();
#pragma unroll 1
    for (unsigned i = threadIdx.x; i < block_rows * tokens; i += blockDim.x) {
        const int row = block.first_row + static_cast<int>(i) / tokens;
        const int token = block.first_token + static_cast<int>(i) % tokens;
        if (row >= product.rows || token >= product.tokens) continue;
        float sum = 0;
#pragma unroll 1
        for (unsigned warp = 0; warp < blockDim.x / warp_lanes; ++warp) sum += of_warps[warp][i];
        float& to = product.out[token][row];
        to = product.update == Update::add ? fmaf(sum, factor, to) : sum * factor;
    }
}

/// Calls `multiply` as a template of how many tokens a block has, and of whether it is the fast one, whose blocks have
/// more than one.
template <class Multiply>
void with_block_tokens(bool fast, Index tokens, const Multiply& multiply) {
    if (tokens == 0) return;
    if (!fast)
        multiply.template operator()<1, false>();
    else if (tokens == 1)
        multiply.template operator()<1, true>();
    else if (tokens == 2)
        multiply.template operator()<2, true>();
    else if (tokens <= 4)
        multiply.template operator()<4, true>();
    else
        multiply.template operator()<8, true>();
}

}  // namespace mistral::cuda

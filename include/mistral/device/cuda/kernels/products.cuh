#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/device/cuda/kernels/elements.cuh>
#include <mistral/device/cuda/kernels/launch.cuh>
#include <mistral/device/cuda/kernels/reduce.cuh>
#include <mistral/device/cuda/kernels/swiglu.cuh>
#include <mistral/device/cuda/launch_shapes.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <cstddef>

/// What products of a few tokens have in common, whatever the weights. A few warps share a group of rows; these are
/// read in pieces of 16 bytes, `chunk_pieces` by each lane of a warp, after which the warp goes on where the others of
/// the group have ended. Sums so depend on the shape of the weights alone.
namespace mistral::cuda {

__device__ __forceinline__ int warp_of_block() {
    return static_cast<int>(threadIdx.x) / warp_lanes;
}

/// Weights as kernels see them, whose product with the input is out [tokens, rows]. `warps` share a group of rows, and
/// `first_block` is the first for them.
template <class Weights>
struct OneProduct {
    Weights weights{};
    Rows<float> out;
    int rows = 0;
    int warps = 1;
    int first_block = 0;
};

/// Products of one input x [tokens, cols].
template <class Weights>
struct Products {
    Rows<const float> x;
    int tokens;
    int cols;
    Update update;
    int token_blocks;
    bool gated;      ///< half of a block's warps are for each of two products, of which SwiGLU makes the first's result
    int blocks = 0;  ///< for all rows
    OneProduct<Weights> each[most_products]{};

    Products(MatrixView<const float> x_view, Update result, bool is_gated, int block_tokens)
        : x(x_view),
          tokens(static_cast<int>(x_view.rows())),
          cols(static_cast<int>(x_view.cols())),
          update(result),
          token_blocks(divide_up(tokens, block_tokens)),
          gated(is_gated) {}

    /// Puts the next one in its place, in groups of `group_rows` rows. Places after the last have no blocks.
    void set(std::size_t index, const Weights& weights, MatrixView<float> out, int warps, int group_rows) {
        const auto rows = static_cast<int>(out.cols());
        const Index groups = divide_up(out.cols(), group_rows);
        if (gated) {  // two, of the same shape
            warps = std::min(warps, most_multiply_warps / 2);
            each[index] = {weights, out, rows, warps, 0};
            blocks = static_cast<int>(multiply_blocks(groups, 2 * warps));
            return;
        }
        each[index] = {weights, out, rows, warps, blocks};
        blocks += static_cast<int>(multiply_blocks(groups, warps));
        for (std::size_t rest = index + 1; rest < most_products; ++rest) each[rest].first_block = blocks;
    }

    /// The one that this warp is for: chosen without an index, which would put all into slow memory.
    __device__ __forceinline__ OneProduct<Weights> of_warp() const {
        const int block = block_of_rows();
        OneProduct<Weights> product = each[0];
        if (gated) {
            if (is_for_up()) product = each[1];
            return product;
        }
#pragma unroll
        for (std::size_t i = 1; i < most_products; ++i)
            if (block >= each[i].first_block) product = each[i];
        return product;
    }

    /// Warps of a block that are for the same product.
    __device__ __forceinline__ int warps_of_product() const {
        return gated ? most_multiply_warps / 2 : most_multiply_warps;
    }
    /// Whether this warp's product is the one that what a gate makes of the other is multiplied with.
    __device__ __forceinline__ bool is_for_up() const {
        return warp_of_block() >= warps_of_product();
    }

    /// Blocks with the same rows follow each other, so that the cache has the weights for all but the first.
    __device__ __forceinline__ int block_of_rows() const {
        return static_cast<int>(blockIdx.x) / token_blocks;
    }
    __device__ __forceinline__ int block_of_tokens() const {
        return static_cast<int>(blockIdx.x) % token_blocks;
    }
};

/// Pieces of each row that a lane has on their way at once: as many as there is room for beside so many sums.
[[nodiscard]] constexpr int pieces_ahead(int sums) {
    return sums <= 8 ? chunk_pieces : sums <= 16 ? 2 : 1;
}

/// The warps of a block that compute a group of rows for some tokens.
struct Group {
    int first_row;
    int first_token;
    int warps;
    int warp;  ///< of the group's

    template <class Weights>
    __device__ __forceinline__ Group(const Products<Weights>& products, const OneProduct<Weights>& product, int rows,
                                     int tokens)
        : first_token(products.block_of_tokens() * tokens), warps(product.warps) {
        const int block = products.block_of_rows() - product.first_block;
        const int side = products.warps_of_product();
        const int of_all = block * side + warp_of_block() % side;
        first_row = of_all / warps * rows;
        warp = of_all % warps;
    }

    /// The activations of the group's token t; where there is none, those of the last one.
    template <class Weights>
    __device__ __forceinline__ const float* x(const Products<Weights>& products, int t) const {
        return products.x[min(first_token + t, products.tokens - 1)];
    }

    __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x) % warp_lanes; }

    /// The first piece of a lane.
    __device__ __forceinline__ int first_piece() const { return warp * chunk_pieces * warp_lanes + lane(); }

    /// The piece of a lane that is `ahead` after another: in the same chunk, or in the warp's next one.
    template <int ahead>
    __device__ __forceinline__ int next_piece(int piece) const {
        constexpr int chunk = chunk_pieces * warp_lanes;
        const int next = piece + ahead * warp_lanes;
        return ahead == chunk_pieces || next % chunk < warp_lanes ? next + (warps - 1) * chunk : next;
    }
};

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

/// The sum of what the warps of a group summed.
template <int sums>
__device__ __forceinline__ float sum_of_group(const float (*of_warps)[sums], int warps, int i) {
    float sum = 0;
#pragma unroll 1
    for (int warp = 0; warp < warps; ++warp) sum += of_warps[warp][i];
    return sum;
}

/// Adds up what the threads of a group summed, times a factor, and writes it or adds it to what stands there.
template <int group_rows, int tokens, class Weights>
__device__ __forceinline__ void write_sums(const float (&sums)[group_rows][tokens], float factor, const Group& group,
                                           const OneProduct<Weights>& product, const Products<Weights>& products) {
    static __shared__ float of_warps[most_multiply_warps][group_rows * tokens];
#pragma unroll
    for (int r = 0; r < group_rows; ++r)
#pragma unroll
        for (int t = 0; t < tokens; ++t) {
            const float sum = sum_of_warp(sums[r][t]);
            if (group.lane() == 0) of_warps[warp_of_block()][r * tokens + t] = sum;
        }
    __syncthreads();
    if (products.is_for_up()) return;  // the warps for the gate write the results of both
    const auto* of_group = of_warps + (warp_of_block() - group.warp);
#pragma unroll 1
    for (int i = group.warp * warp_lanes + group.lane(); i < group_rows * tokens; i += group.warps * warp_lanes) {
        const int row = group.first_row + i / tokens;
        const int token = group.first_token + i % tokens;
        if (row >= product.rows || token >= products.tokens) continue;
        const float sum = sum_of_group(of_group, group.warps, i);
        float& to = product.out[token][row];
        if (products.gated)
            to = swiglu(sum * factor, sum_of_group(of_group + most_multiply_warps / 2, group.warps, i) * factor);
        else
            to = products.update == Update::add ? fmaf(sum, factor, to) : sum * factor;
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

/// Puts a kernel for products on a stream.
template <class Weights, class... Parameters>
void launch_products(void (*kernel)(Products<Weights>, Parameters...), cudaStream_t stream,
                     const Products<Weights>& products, const Parameters&... parameters) {
    const int blocks = products.blocks * products.token_blocks;
    if (blocks != 0)
        launch(kernel, static_cast<unsigned>(blocks), multiply_threads, 0, stream, products, parameters...);
}

}  // namespace mistral::cuda

#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/device/cuda/kernels.hpp>
#include <mistral/device/cuda/kernels/elementwise.cuh>
#include <mistral/device/cuda/kernels/launch.cuh>
#include <mistral/device/cuda/kernels/levels.cuh>
#include <mistral/device/cuda/kernels/products.cuh>
#include <mistral/device/cuda/launch_shapes.hpp>

/// Products of a few tokens with quantised weights, and those weights as bfloat16.
namespace mistral::cuda {

/// Where the tiles of a matrix lie.
template <QuantizedScalar Q>
struct Tiles {
    const std::uint8_t* codes = nullptr;
    const half* scales = nullptr;

    Tiles() = default;
    Tiles(const QuantizedView<Q>& view) : codes(view.codes), scales(view.scales) {}
};

/// How the tiles of all matrices of so many columns are read. Those of a row of tiles lie in the order of their inputs.
template <QuantizedScalar Q>
struct TileReader {
    static constexpr int tiles_of_group = static_cast<int>(group_size / QuantizedView<Q>::tile_cols);

    Index tiles_of_row;
    Index groups;
    Levels<Q> levels;

    explicit TileReader(const QuantizedView<Q>& view) : tiles_of_row(view.tiles_of_row()), groups(view.groups()) {}

    /// The codes of a tile, a word for each of its rows.
    __device__ __forceinline__ Words<4> codes_of(const Tiles<Q>& tiles, Index row_tile, int tile) const {
        return load_once(tiles.codes + (row_tile * tiles_of_row + tile) * QuantizedView<Q>::tile_bytes);
    }
    /// The scales of a group in the rows of a tile, two in a word.
    __device__ __forceinline__ Words<2> scales_of(const Tiles<Q>& tiles, Index row_tile, int group) const {
        return load_words<2>(tiles.scales + (row_tile * groups + group) * QuantizedView<Q>::tile_rows);
    }
};

/// A group computes the four outputs of a row of tiles, of up to `tokens` tokens; a piece is a tile. `whole`: rows of x
/// lie at multiples of 16 bytes, and cols is a multiple of a tile's.
template <QuantizedScalar Q, int tokens, bool whole>
__global__ void __launch_bounds__(multiply_threads, multiply_residents(tokens))
    multiply_few_tiles(Products<Tiles<Q>> products, TileReader<Q> reader) {
    let_next_begin();
    constexpr int rows = QuantizedView<Q>::tile_rows;
    constexpr int cols = QuantizedView<Q>::tile_cols;
    constexpr int ahead = pieces_ahead(tokens * rows);
    constexpr int tiles_of_group = TileReader<Q>::tiles_of_group;
    const auto product = products.of_warp();
    const Group group(products, product, rows, tokens);
    const int row_tile = group.first_row / rows;
    const int tiles = group.first_row < product.rows ? divide_up(products.cols, cols) : 0;
    float sums[rows][tokens] = {};
    for (int first = group.first_piece(); first < tiles; first = group.next_piece<ahead>(first)) {
        Words<4> codes[ahead];
        Words<2> scales[ahead];
        const int first_group = static_cast<int>(static_cast<unsigned>(first) / tiles_of_group);
        for_pieces<ahead>(first, tiles, [&](int tile, int i) {
            codes[i] = reader.codes_of(product.weights, row_tile, tile);
            scales[i] = reader.scales_of(product.weights, row_tile, first_group + i * (warp_lanes / tiles_of_group));
        });
        if (first == group.first_piece()) wait_for_previous();  // weights are no kernel's result
        for_pieces<ahead>(first, tiles, [&](int tile, int i) {
            float row_scales[rows], levels[rows][cols];
            widen<half>(scales[i], row_scales);
#pragma unroll
            for (int r = 0; r < rows; ++r) reader.levels.widen(codes[i].words[r], levels[r]);
#pragma unroll
            for (int t = 0; t < tokens; ++t) {
                float x[cols];
                load_activations<whole>(group.x(products, t), tile * cols, products.cols, x);
#pragma unroll
                for (int r = 0; r < rows; ++r) {
                    float sum = __fmul_rn(x[0], levels[r][0]);
#pragma unroll
                    for (int j = 1; j < cols; ++j) sum = fmaf(x[j], levels[r][j], sum);
                    sums[r][t] = fmaf(sum, row_scales[r], sums[r][t]);
                }
            }
        });
    }
    wait_for_previous();  // where there was no piece
    write_sums(sums, 1 / level_unit, group, product, products);
}

template <QuantizedScalar Q>
void multiply(cudaStream_t stream, MatrixView<const float> x, std::span<const WeightsFor<QuantizedView<Q>>> weights,
              Update update, bool gated) {
    if (weights.empty()) return;
    const bool fast = x.cols() % QuantizedView<Q>::tile_cols == 0 && is_aligned(x, 4);
    const TileReader<Q> reader(weights.front().weights);
    with_block_tokens(fast, x.rows(), [&]<int tokens, bool whole>() {
        Products<Tiles<Q>> products(x, update, gated, tokens);
        for (std::size_t i = 0; i < weights.size(); ++i) {
            const auto& [tiles, out] = weights[i];
            products.set(i, tiles, out, multiply_warps(tiles.row_tiles(), tiles.tiles_of_row()), tiles.tile_rows);
        }
        launch_products(multiply_few_tiles<Q, tokens, whole>, stream, products, reader);
    });
}

/// Row r of what is done is the r-th row of tiles, column c its c-th tile.
template <QuantizedScalar Q>
struct Dequantize {
    Tiles<Q> weights;
    TileReader<Q> reader;
    Index rows;
    Index cols;
    Rows<bfloat16> out;
    bool aligned;

    template <int>
    __device__ __forceinline__ void apply(Index row_tile, Index tile_index) const {
        const int tile = static_cast<int>(tile_index);
        constexpr int tile_rows = QuantizedView<Q>::tile_rows;
        constexpr int tile_cols = QuantizedView<Q>::tile_cols;
        const Words<4> codes = reader.codes_of(weights, row_tile, tile);
        float scales[tile_rows];
        widen<half>(reader.scales_of(weights, row_tile, tile / reader.tiles_of_group), scales);
        const Index col = tile_index * tile_cols;
        const bool whole = aligned && col + tile_cols <= cols;
#pragma unroll
        for (int r = 0; r < tile_rows; ++r) {
            const Index row = row_tile * tile_rows + r;
            if (row >= rows) return;
            float values[tile_cols];
            reader.levels.widen(codes.words[r], values);
#pragma unroll
            for (int i = 0; i < tile_cols; ++i) values[i] *= scales[r] / level_unit;
            if (whole)
                store(values, out[row] + col);
            else
                for (int i = 0; i < tile_cols; ++i)
                    if (col + i < cols) out[row][col + i] = static_cast<bfloat16>(values[i]);
        }
    }
};

template <QuantizedScalar Q>
void dequantize(cudaStream_t stream, QuantizedView<Q> weights, MatrixView<bfloat16> out) {
    const bool aligned = is_aligned(out, weights.tile_cols);
    launch_for_elements<1>(stream, weights.row_tiles(), divide_up(weights.cols, weights.tile_cols),
                           Dequantize<Q>{weights, TileReader<Q>(weights), weights.rows, weights.cols, out, aligned});
}

}  // namespace mistral::cuda

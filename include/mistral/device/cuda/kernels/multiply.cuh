#pragma once

#include <mistral/device/cuda/kernels.hpp>
#include <mistral/device/cuda/kernels/elements.cuh>
#include <mistral/device/cuda/kernels/products.cuh>
#include <mistral/device/cuda/launch_shapes.hpp>

/// Products of a few tokens with weights that are not quantised. Memory bounds them: the weights are read once, with
/// several loads on their way before the first is used.
namespace mistral::cuda {

/// A piece of a row of weights from column `col` on. Where these are not `whole`, single elements, with zeros from
/// column `cols` on.
template <bool whole, class S>
__device__ __forceinline__ Words<4> load_piece(const S* row, int col, int cols) {
    if constexpr (whole) {
        return load_once(row + col);
    } else {
        constexpr int width = 4 * per_word<S>;
        float elements[width];
#pragma unroll
        for (int i = 0; i < width; ++i) elements[i] = col + i < cols ? static_cast<float>(row[col + i]) : 0.0f;
        Words<4> piece;
#pragma unroll
        for (int i = 0; i < 4; ++i) piece.words[i] = narrow<S>(elements + i * per_word<S>);
        return piece;
    }
}

/// `whole`: rows of x and weights lie at multiples of 16 bytes, and cols is a multiple of what fills these.
template <class S, int tokens, int block_rows, bool whole>
__global__ void __launch_bounds__(most_multiply_threads, multiply_residents(tokens))
    multiply_few(Product product, Rows<const S> weights) {
    constexpr int width = 4 * per_word<S>;
    constexpr int ahead = pieces_ahead(tokens * block_rows);
    const Block block(block_rows, tokens);
    if (block.first_row >= product.rows) return;
    const int pieces = (product.cols + width - 1) / width;
    float sums[block_rows][tokens] = {};
    for (int first = first_piece(); first < pieces; first = next_piece<ahead>(first)) {
        Words<4> loaded[ahead][block_rows];
        for_pieces<ahead>(first, pieces, [&](int piece, int i) {
#pragma unroll
            for (int r = 0; r < block_rows; ++r) {
                const S* row = weights[min(block.first_row + r, product.rows - 1)];
                loaded[i][r] = load_piece<whole>(row, piece * width, product.cols);
            }
        });
        for_pieces<ahead>(first, pieces, [&](int piece, int i) {
            float elements[block_rows][width];
#pragma unroll
            for (int r = 0; r < block_rows; ++r) widen<S>(loaded[i][r], elements[r]);
#pragma unroll
            for (int t = 0; t < tokens; ++t) {
                float x[width];
                load_activations<whole>(block.x(product, t), piece * width, product.cols, x);
#pragma unroll
                for (int r = 0; r < block_rows; ++r)
#pragma unroll
                    for (int j = 0; j < width; ++j) sums[r][t] = fmaf(x[j], elements[r][j], sums[r][t]);
            }
        });
    }
    write_sums(sums, 1.0f, block, product);
}

template <class S>
void multiply(cudaStream_t stream, MatrixView<const float> x, MatrixView<const S> weights, MatrixView<float> out,
              Update update) {
    constexpr Index width = 16 / sizeof(S);
    if (weights.rows() == 0) return;
    const bool fast = weights.cols() % width == 0 && is_aligned(weights, width) && is_aligned(x, 4);
    const unsigned threads = multiply_threads(divide_up(weights.rows(), multiply_rows(1)));
    with_block_tokens(fast, x.rows(), [&]<int tokens, bool whole>() {
        constexpr int rows = multiply_rows(tokens);
        const GridSize grid = multiply_grid(weights.rows(), rows, x.rows(), tokens);
        launch(multiply_few<S, tokens, rows, whole>, {grid.x, grid.y, grid.z}, threads, 0, stream,
               Product(x, out, update), weights);
    });
}

}  // namespace mistral::cuda

#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/device/cuda/kernels.hpp>
#include <mistral/device/cuda/kernels/elements.cuh>
#include <mistral/device/cuda/kernels/launch.cuh>
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
template <class S, int tokens, int group_rows, bool whole>
__global__ void __launch_bounds__(multiply_threads, multiply_residents(tokens))
    multiply_few(Products<Rows<const S>> products) {
    let_next_begin();
    constexpr int width = 4 * per_word<S>;
    constexpr int ahead = pieces_ahead(tokens * group_rows);
    const auto product = products.of_warp();
    const Group group(products, product, group_rows, tokens);
    const int pieces = group.first_row < product.rows ? divide_up(products.cols, width) : 0;
    float sums[group_rows][tokens] = {};
    for (int first = group.first_piece(); first < pieces; first = group.next_piece<ahead>(first)) {
        Words<4> loaded[ahead][group_rows];
        for_pieces<ahead>(first, pieces, [&](int piece, int i) {
#pragma unroll
            for (int r = 0; r < group_rows; ++r) {
                const S* row = product.weights[min(group.first_row + r, product.rows - 1)];
                loaded[i][r] = load_piece<whole>(row, piece * width, products.cols);
            }
        });
        if (first == group.first_piece()) wait_for_previous();  // weights are no kernel's result
        for_pieces<ahead>(first, pieces, [&](int piece, int i) {
            float elements[group_rows][width];
#pragma unroll
            for (int r = 0; r < group_rows; ++r) widen<S>(loaded[i][r], elements[r]);
#pragma unroll
            for (int t = 0; t < tokens; ++t) {
                float x[width];
                load_activations<whole>(group.x(products, t), piece * width, products.cols, x);
#pragma unroll
                for (int r = 0; r < group_rows; ++r)
#pragma unroll
                    for (int j = 0; j < width; ++j) sums[r][t] = fmaf(x[j], elements[r][j], sums[r][t]);
            }
        });
    }
    wait_for_previous();  // where there was no piece
    write_sums(sums, 1.0f, group, product, products);
}

template <class S>
void multiply(cudaStream_t stream, MatrixView<const float> x, std::span<const WeightsFor<MatrixView<const S>>> weights,
              Update update, bool gated) {
    constexpr Index width = 16 / sizeof(S);
    bool fast = x.cols() % width == 0 && is_aligned(x, 4);
    for (const auto& [matrix, out] : weights) fast = fast && is_aligned(matrix, width);
    with_block_tokens(fast, x.rows(), [&]<int tokens, bool whole>() {
        constexpr int rows = multiply_rows(tokens);
        Products<Rows<const S>> products(x, update, gated, tokens);
        for (std::size_t i = 0; i < weights.size(); ++i) {
            const auto& [matrix, out] = weights[i];
            const int warps = multiply_warps(divide_up(matrix.rows(), multiply_rows(1)), divide_up(x.cols(), width));
            products.set(i, matrix, out, warps, rows);
        }
        launch_products(multiply_few<S, tokens, rows, whole>, stream, products);
    });
}

}  // namespace mistral::cuda

#pragma once

#include <mistral/base/host_matrix.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/core_kind.hpp>
#include <mistral/device/cpu/dot_tile.hpp>
#include <mistral/device/cpu/piece_block.hpp>
#include <mistral/device/cpu/row_block.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/cpu/tasks.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <cassert>
#include <concepts>
#include <span>
#include <utility>

/// Linear maps. Every output is one dot product whose order of summation depends on nothing but the number of inputs,
/// so that the same token gives the same bits alone or in a chunk, on any number of threads.
namespace mistral::cpu {

/// Whole rows with as many packed tokens as stay in L2.
template <class Architecture, class S, class Packed>
void multiply_by_rows(ThreadPool& pool, MatrixView<const Packed> x,
                      std::span<const Product<HostMatrix<S>, Activation<S>>> products, Update update,
                      CoreKind core_kind) {
    using Size = TileSize<S, Architecture>;
    const Index tokens = TaskSize::even_tokens(
        x.rows(), TaskSize::tokens_in_cache(x.cols() * static_cast<Index>(sizeof(Packed)), Size::tokens));
    const auto size = [&](const HostMatrix<S>& weights) {
        return TaskSize(pool.threads(), x.rows(), tokens, weights.rows(),
                        weights.view.stride() * static_cast<Index>(sizeof(S)), Size::row_multiple);
    };
    for_each_product_task(pool, products, size,
                          [&](const auto& product, Index, Index row, Index token, const TaskSize& task) {
                              // Tasks of the same rows follow each other: the first of every thread begin together.
                              const bool from_memory = token < pool.threads() * task.tokens;
                              RowBlock<S, Architecture>(product.weights.view, x, product.out, update, core_kind)
                                  .run(row, std::min(product.weights.rows(), row + task.rows), token,
                                       std::min(x.rows(), token + task.tokens), from_memory);
                          });
}

/// Blocks of rows and packed tokens, piece by piece.
template <class Architecture, class S, class Packed, class Workspace>
void multiply_by_pieces(ThreadPool& pool, MatrixView<const Packed> x,
                        std::span<const Product<HostMatrix<S>, Activation<S>>> products, Update update,
                        Workspace& workspace) {
    using Block = PieceBlock<S, Architecture>;
    auto frame = workspace.frame();
    const auto scratch = frame.template matrix<Activation<S>>(pool.threads(), Block::scratch_size());
    const Index tokens = TaskSize::even_tokens(x.rows(), Block::most_tokens);
    const auto size = [&](const HostMatrix<S>& weights) {
        return TaskSize::blocks(pool.threads(), x.rows(), tokens, weights.rows(), Block::most_rows,
                                Block::most_rows / 2);
    };
    for_each_product_task(pool, products, size,
                          [&](const auto& product, Index worker, Index row, Index token, const TaskSize& task) {
                              Block(product.weights.view, x, product.out, update)
                                  .run(row, std::min(product.weights.rows(), row + task.rows), token,
                                       std::min(x.rows(), token + task.tokens), scratch.row(worker));
                          });
}

/// x [tokens, inputs], of each product the weights [outputs, inputs] -> out [tokens, outputs].
template <class Architecture, class S, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const Activation<S>> x,
              std::span<const Product<HostMatrix<S>, Activation<S>>> products, Update update, CoreKind core_kind,
              Workspace& workspace) {
    using Packed = typename WeightLanes<S, Architecture>::Packed;
    constexpr Index tokens_to_pack = 16;
    constexpr Index row_padding = 64 / sizeof(Packed);  // rows a power of two apart would share few lines of a cache

    auto frame = workspace.frame();
    const auto packed =
        frame.template matrix<Packed>(x.rows(), padded_to_steps<S, Architecture>(x.cols()) + row_padding);
    pool.for_each(divide_up(x.rows(), tokens_to_pack), [&](Index, Index i) noexcept {
        for (Index t = i * tokens_to_pack; t < std::min(x.rows(), (i + 1) * tokens_to_pack); ++t)
            pack<S, Architecture>(x.row(t), x.cols(), packed.row(t));
    });

    assert(std::all_of(products.begin(), products.end(), [&](const auto& product) {
        return product.weights.cols() == x.cols() && product.out.cols() == product.weights.rows();
    }));
    if (TileSize<S, Architecture>::takes_pieces(core_kind, x.rows()))
        multiply_by_pieces<Architecture>(pool, MatrixView<const Packed>(packed), products, update, workspace);
    else
        multiply_by_rows<Architecture>(pool, MatrixView<const Packed>(packed), products, update, core_kind);
}

/// The same in double precision through Eigen: the library's own reference, without a kernel of ours.
template <class Architecture, std::same_as<double> S, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const Activation<S>> x,
              std::span<const Product<HostMatrix<S>, Activation<S>>> products, Update update, CoreKind, Workspace&) {
    using Row = Eigen::Map<const Eigen::VectorXd>;
    pool.for_each(x.rows(), [&](Index, Index t) noexcept {
        for (const auto& [weights, out] : products)
            for (Index r = 0; r < weights.rows(); ++r) {
                const double value = Row(x.row(t), x.cols()).dot(Row(weights.view.row(r), weights.cols()));
                out(t, r) = update == Update::add ? out(t, r) + value : value;
            }
    });
}

}  // namespace mistral::cpu

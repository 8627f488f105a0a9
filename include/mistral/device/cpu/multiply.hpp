#pragma once

#include <mistral/base/host_matrix.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/core_kind.hpp>
#include <mistral/device/cpu/dot_tile.hpp>
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

    using Size = TileSize<S, Architecture>;
    using Block = RowBlock<S, Architecture>;
    const bool in_pieces = Size::takes_pieces(core_kind, x.rows());
    const Index token_bytes = packed.cols() * static_cast<Index>(sizeof(Packed));
    const Index tokens = in_pieces ? Size::tokens_in_pieces : TaskSize::tokens_in_cache(token_bytes, Size::tokens);
    const auto sums = frame.template matrix<Activation<S>>(in_pieces ? pool.threads() : 0, Block::sums_of(tokens));
    const auto size = [&](const HostMatrix<S>& weights) {
        if (in_pieces)
            return TaskSize::blocks(pool.threads(), x.rows(), tokens, weights.rows(), Size::rows_in_pieces,
                                    Size::rows_in_pieces / 2);
        return TaskSize(pool.threads(), x.rows(), tokens, weights.rows(),
                        weights.view.stride() * static_cast<Index>(sizeof(S)), Size::row_multiple);
    };
    for_each_product_task(
        pool, products, size, [&](const auto& product, Index worker, Index row, Index token, const TaskSize& task) {
            assert(product.weights.cols() == x.cols() && product.out.cols() == product.weights.rows());
            Block(product.weights.view, packed, product.out, update, core_kind)
                .run(row, std::min(product.weights.rows(), row + task.rows), token,
                     std::min(x.rows(), token + task.tokens), in_pieces ? sums.row(worker) : nullptr);
        });
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

#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/device/cpu/core_kind.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>
#include <mistral/device/cpu/panel_block.hpp>
#include <mistral/device/cpu/quad_lanes.hpp>
#include <mistral/device/cpu/tasks.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/cpu/token_group.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <span>

/// Linear maps with quantised weights. Activations become integers too, in the groups of the weights, and products are
/// sums of integers, exact: what is rounded is the activations, each to within half of 1 / 16 320 of its group's
/// largest in 15 bits, of 1 / 127 in 8. Sums over groups are binary32, in the order of the inputs, so that a token
/// gives the same bits alone or in a chunk.
namespace mistral::cpu {

/// Cuts products of panels with x [tokens, inputs] into tasks of so many tokens, and calls body(product, worker,
/// first_panel, last_panel, first_token, last_token) for all of them, on the pool's threads.
template <QuantizedScalar Q, class Body>
void for_each_panel_task(ThreadPool& pool, MatrixView<const float> x,
                         std::span<const Product<PackedMatrix<Q>, float>> products, Index tokens_per_task, Body body) {
    const auto size = [&](const PackedMatrix<Q>& weights) {
        return TaskSize(pool.threads(), x.rows(), tokens_per_task, weights.panels(), weights.panel_bytes(), 1);
    };
    for_each_product_task(
        pool, products, size, [&](const auto& product, Index worker, Index panel, Index token, const TaskSize& task) {
            assert(product.weights.cols() == x.cols() && product.out.cols() == product.weights.rows());
            body(product, worker, panel, std::min(product.weights.panels(), panel + task.rows), token,
                 std::min(x.rows(), token + task.tokens));
        });
}

/// Groups that many tokens are multiplied with at a time: of more inputs, so few tokens would fit into L2 that panels
/// came from farther away too often.
inline constexpr Index most_groups_of_many = 64;

/// x [tokens, inputs], of each product the weights [outputs, inputs] -> out [tokens, outputs]; activations are integers
/// of 15 or 8 bits.
template <class Architecture, int bits, QuantizedScalar Q, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const float> x, std::span<const Product<PackedMatrix<Q>, float>> products,
              Update update, CoreKind core_kind, Workspace& workspace) {
    assert(x.cols() > 0);
    auto frame = workspace.frame();
    // One group more keeps rows from lying a power of two apart, where they would share few lines of a cache.
    using Lanes = QuadLanes<Architecture>;
    using Group = TokenGroup<bits, typename Lanes::Digit>;
    const auto tokens = frame.template matrix<Group>(x.rows(), groups_of(x.cols()) + 1);
    pool.for_each(x.rows(), [&](Index, Index t) noexcept {
        for_each_group<Group>(x.row(t), x.cols(), [&](Index g, const Group& group) { tokens(t, g) = group; });
    });

    constexpr Index token_multiple = 12;  // a few tiles
    const auto in_cache = [&](Index groups) {
        return TaskSize::tokens_in_cache(groups * Index{sizeof(Group)}, token_multiple);
    };
    const Index groups =
        x.rows() <= in_cache(tokens.cols()) ? tokens.cols() : std::min(tokens.cols(), most_groups_of_many);
    const Index tokens_per_task = TaskSize::even_tokens(x.rows(), in_cache(groups));
    using Block = PanelBlock<Q, Architecture, Group>;
    const auto sums = frame.template matrix<float>(pool.threads(), Block::sums_of(tokens_per_task));
    const auto reading = PanelReading::of<Q, Lanes>(core_kind);
    for_each_panel_task(
        pool, x, products, tokens_per_task,
        [&](const auto& product, Index worker, Index first, Index last, Index first_token, Index last_token) {
            const Block block(product.weights, tokens, product.out, update, reading);
            if (x.rows() == 1)
                block.run_alone(first, last);
            else
                block.run(first, last, first_token, last_token, groups, sums.row(worker));
        });
}

}  // namespace mistral::cpu

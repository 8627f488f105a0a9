#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/amx_panel_block.hpp>
#include <mistral/device/cpu/core_kind.hpp>
#include <mistral/device/cpu/multiply_quantized.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>
#include <mistral/device/cpu/tasks.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/cpu/token_group.hpp>
#include <mistral/device/device.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <cassert>
#include <concepts>
#include <span>

namespace mistral::cpu {

/// What multiply<Avx512Dot, bits> computes, to the last bit, by tiles of bytes, which are faster for all but one token.
template <int bits, QuantizedScalar Q, class Workspace>
void multiply_panels_by_tiles(ThreadPool& pool, MatrixView<const float> x,
                              std::span<const Product<PackedMatrix<Q>, float>> products, Update update,
                              CoreKind core_kind, Workspace& workspace) {
    using Block = AmxPanelBlock<Q, bits>;
    using Group = typename Block::Group;
    if (x.rows() == 1) return multiply<Avx512Dot, bits>(pool, x, products, update, core_kind, workspace);
    assert(x.cols() > 0);
    // In as few tiles as hold them, all about equally large.
    const Index tile_tokens = divide_up(x.rows(), divide_up(x.rows(), amx_rows));
    auto frame = workspace.frame();
    const auto tiles = frame.template matrix<Group>(divide_up(x.rows(), tile_tokens), groups_of(x.cols()));
    pool.for_each(x.rows(), [&](Index, Index t) noexcept {
        for_each_group<typename Group::OfOne>(x.row(t), x.cols(), [&](Index g, const auto& group) {
            tiles(t / tile_tokens, g).set(t % tile_tokens, tile_tokens, group);
        });
    });
    const Index token_bytes = tiles.cols() * static_cast<Index>(sizeof(Group)) / tile_tokens;
    const Index tokens_per_task = TaskSize::tokens_in_cache(token_bytes, tile_tokens);
    for_each_panel_task(
        pool, x, products, tokens_per_task,
        [&](const auto& product, Index, Index first, Index last, Index first_token, Index last_token) {
            Block(product.weights, tiles, tile_tokens, product.out, update).run(first, last, first_token, last_token);
        });
}

template <std::same_as<Amx> Architecture, int bits, QuantizedScalar Q, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const float> x, std::span<const Product<PackedMatrix<Q>, float>> products,
              Update update, CoreKind core_kind, Workspace& workspace) {
    multiply_panels_by_tiles<bits>(pool, x, products, update, core_kind, workspace);
}

}  // namespace mistral::cpu
#endif

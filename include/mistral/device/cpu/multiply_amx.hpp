#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/amx_product.hpp>
#include <mistral/device/cpu/amx_row_block.hpp>
#include <mistral/device/cpu/amx_tokens.hpp>
#include <mistral/device/cpu/amx_weights.hpp>
#include <mistral/device/cpu/tasks.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/device.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <cassert>
#include <concepts>
#include <cstdint>
#include <span>

/// Linear maps by tiles of bfloat16. Activations are rounded to bfloat16, and so are the weights that levels and scales
/// stand for. Sums are binary32, in an order that depends on nothing but the number of inputs, so that a token gives
/// the same bits alone or in a chunk.
namespace mistral::cpu {

/// The products of weights with packed tokens.
template <class Matrix>
class AmxBlock {
    /// Sums of two tiles that are kept between stretches of steps. With the tokens of a stretch, they stay in L2.
    static constexpr Index sums_at_once = 256;

  public:
    /// Elements of 32 bits of scratch memory that a worker needs.
    static constexpr Index scratch_size = 2 * (amx_steps_at_once + sums_at_once) * amx_tile;

    AmxBlock(const Matrix& weights, const AmxTokens& tokens, const bfloat16* x, MatrixView<float> out, Update update,
             std::uint32_t* scratch)
        : weights_(weights),
          tokens_(tokens),
          x_(x),
          out_(out),
          update_(update),
          unpacked_(scratch),
          sums_(reinterpret_cast<float*>(scratch + amx_steps_at_once * 2 * amx_tile)) {}

    /// `first_output` and `first_token` begin a tile.
    void run(Index first_output, Index last_output, Index first_token, Index last_token) const {
        const AmxRegisters registers(amx_rows);
        const Index first = first_token / amx_rows, last = divide_up(last_token, amx_rows);
        assert(last - first <= sums_at_once);
        const Index outputs_at_once = sums_at_once / (last - first) * amx_outputs;
        for (; first_output < last_output; first_output += outputs_at_once)
            multiply(first_output, std::min(last_output, first_output + outputs_at_once), first, last);
    }

  private:
    /// Outputs of all tiles of tokens, some steps after the other, with the sums in memory between them.
    void multiply(Index first_output, Index last_output, Index first_tile, Index last_tile) const {
        for (Index step = 0; step < tokens_.steps(); step += amx_steps_at_once) {
            const Index steps = std::min(amx_steps_at_once, tokens_.steps() - step);
            float* sums = sums_;
            for (Index output = first_output; output < last_output; output += amx_outputs) {
                unpack_for_amx(weights_, output, step, step + steps, unpacked_);
                Index tile = first_tile;
                for (; tile + 2 <= last_tile; tile += 2) sums = add_steps<2>(tile, step, steps, output, sums);
                if (tile < last_tile) sums = add_steps<1>(tile, step, steps, output, sums);
            }
        }
    }

    /// Adds steps to the sums of one or two tiles of tokens, and writes them if these are the last. Returns the sums
    /// that follow.
    template <int tiles>
    float* add_steps(Index tile, Index step, Index steps, Index output, float* sums) const {
        constexpr Index two = 2 * amx_tile;
        multiply_tiles<tiles, 2>(
            {x_ + tokens_.offset(tile, step), amx_inputs, AmxTokens::tile_stride, AmxTokens::tile_size},
            {unpacked_, 16, amx_tile, two}, steps, {sums, 16, two, amx_tile}, step > 0);
        if (step + steps == tokens_.steps())
            for (Index t = 0; t < tiles; ++t)
                for (Index part = 0; part < amx_outputs; part += amx_columns)
                    write_tile(sums + t * two + part * amx_rows, out_, (tile + t) * amx_rows, output + part, update_);
        return sums + tiles * two;
    }

    const Matrix& weights_;
    const AmxTokens& tokens_;
    const bfloat16* x_;
    MatrixView<float> out_;
    Update update_;
    std::uint32_t* unpacked_;
    float* sums_;
};

/// x [tokens, inputs], of each product the weights [outputs, inputs] -> out [tokens, outputs].
template <class Matrix, class Workspace>
void multiply_by_tiles(ThreadPool& pool, MatrixView<const float> x, std::span<const Product<Matrix, float>> products,
                       Update update, Workspace& workspace) {
    using Block = AmxBlock<Matrix>;
    constexpr Index tokens_per_task = 512;
    if (x.rows() == 0 || products.empty()) return;
    assert(x.cols() > 0);
    const AmxTokens tokens(x.rows(), amx_steps(products.front().weights));
    auto frame = workspace.frame();
    bfloat16* const packed = frame.template matrix<bfloat16>(1, tokens.size()).data();
    pool.for_each(tokens.tiles(), [&](Index, Index tile) noexcept { tokens.pack(x, tile, packed); });
    const auto scratch = frame.template matrix<std::uint32_t>(pool.threads(), Block::scratch_size);
    const auto size = [&](const Matrix& weights) {
        return TaskSize(pool.threads(), x.rows(), tokens_per_task, weights.rows(), amx_output_bytes(weights),
                        amx_outputs);
    };
    for_each_product_task(
        pool, products, size, [&](const auto& product, Index worker, Index output, Index token, const TaskSize& task) {
            assert(product.weights.cols() == x.cols() && product.out.cols() == product.weights.rows());
            Block(product.weights, tokens, packed, product.out, update, scratch.row(worker))
                .run(output, std::min(product.weights.rows(), output + task.rows), token,
                     std::min(x.rows(), token + task.tokens));
        });
}

/// The same for at most AmxRowBlock::most_tokens.
template <class Workspace>
void multiply_few_by_tiles(ThreadPool& pool, MatrixView<const float> x,
                           std::span<const Product<HostMatrix<bfloat16>, float>> products, Update update,
                           Workspace& workspace) {
    constexpr Index steps_to_pack = 64;
    if (x.rows() == 0 || products.empty()) return;
    assert(x.cols() > 0);
    const AmxColumns columns(x);
    auto frame = workspace.frame();
    std::uint32_t* const packed = frame.template matrix<std::uint32_t>(1, columns.size()).data();
    pool.for_each(divide_up(columns.steps(), steps_to_pack), [&](Index, Index i) noexcept {
        for (Index step = i * steps_to_pack; step < std::min(columns.steps(), (i + 1) * steps_to_pack); ++step)
            columns.pack(step, packed);
    });
    const auto size = [&](const HostMatrix<bfloat16>& weights) {
        return TaskSize(pool.threads(), x.rows(), x.rows(), weights.rows(), amx_output_bytes(weights), amx_rows);
    };
    for_each_product_task(
        pool, products, size, [&](const auto& product, Index, Index row, Index, const TaskSize& task) {
            assert(product.weights.cols() == x.cols() && product.out.cols() == product.weights.rows());
            AmxRowBlock(product.weights.view, packed, product.out, update)
                .run(row, std::min(product.weights.rows(), row + task.rows));
        });
}

template <std::same_as<Amx> Architecture, std::same_as<bfloat16> S, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const Activation<S>> x,
              std::span<const Product<HostMatrix<S>, Activation<S>>> products, Update update, Workspace& workspace) {
    if (x.rows() <= AmxRowBlock::most_tokens)
        multiply_few_by_tiles(pool, x, products, update, workspace);
    else
        multiply_by_tiles(pool, x, products, update, workspace);
}
template <std::same_as<Amx> Architecture, QuantizedScalar Q, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const float> x, std::span<const Product<PackedMatrix<Q>, float>> products,
              Update update, Workspace& workspace) {
    multiply_by_tiles(pool, x, products, update, workspace);
}

}  // namespace mistral::cpu
#endif

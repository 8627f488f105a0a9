#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/amx_product.hpp>
#include <mistral/device/cpu/amx_row_block.hpp>
#include <mistral/device/cpu/amx_tokens.hpp>
#include <mistral/device/cpu/amx_weights.hpp>
#include <mistral/device/cpu/prefetch.hpp>
#include <mistral/device/cpu/simd.hpp>
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

/// The products of weights with packed tokens: of `most_tokens` and `most_outputs` at most, whose sums then stay in L2
/// with the tokens of a stretch of steps.
template <class Matrix>
class AmxBlock {
  public:
    static constexpr Index most_tokens = 512;
    static constexpr Index most_outputs = 512;
    /// Elements of 32 bits of scratch memory that a worker needs for so many tokens.
    [[nodiscard]] static Index scratch_size(Index tokens) {
        return amx_steps_at_once * 2 * amx_tile + round_up(std::min(tokens, most_tokens), amx_rows) * most_outputs;
    }

    AmxBlock(const Matrix& weights, const AmxTokens& tokens, const bfloat16* x, MatrixView<float> out, Update update,
             std::uint32_t* scratch)
        : weights_(weights),
          tokens_(tokens),
          x_(x),
          out_(out, update),
          unpacked_(scratch),
          sums_(reinterpret_cast<float*>(scratch + amx_steps_at_once * 2 * amx_tile)) {}

    /// Goes through all outputs and tokens with some steps, then with the next, and keeps the sums in memory meanwhile.
    /// `first_output` and `first_token` begin a tile.
    void run(Index first_output, Index last_output, Index first_token, Index last_token) const {
        assert(last_output - first_output <= most_outputs && last_token - first_token <= most_tokens);
        const AmxRegisters registers(amx_rows);
        const Index first_tile = first_token / amx_rows, last_tile = divide_up(last_token, amx_rows);
        for (Index step = 0; step < tokens_.steps(); step += amx_steps_at_once) {
            float* sums = sums_;
            for (Index output = first_output; output < last_output; output += amx_outputs) {
                const Stretch stretch{step, steps_from(step), output};
                const bool is_last = output + amx_outputs >= last_output;
                PieceFetch ahead = is_last ? fetch(step + amx_steps_at_once, first_output, last_tile - first_tile)
                                           : fetch(step, output + amx_outputs, last_tile - first_tile);
                unpack_for_amx(weights_, output, step, step + stretch.steps, unpacked_);
                Index tile = first_tile;
                for (; tile + 2 <= last_tile; tile += 2) sums = add_steps<2>(stretch, tile, sums, ahead);
                if (tile < last_tile) sums = add_steps<1>(stretch, tile, sums, ahead);
            }
        }
    }

  private:
    /// Steps of two tiles of outputs.
    struct Stretch {
        Index step, steps, output;
    };

    [[nodiscard]] Index steps_from(Index step) const { return std::min(amx_steps_at_once, tokens_.steps() - step); }

    /// For the weights of another stretch, while so many tiles of tokens are multiplied.
    [[nodiscard]] PieceFetch fetch(Index step, Index output, Index tiles) const {
        const Index steps = std::max<Index>(0, steps_from(step));  // none behind the last
        return {pieces_of(weights_, output, step, step + steps), divide_up(tiles, 2) * amx_steps_at_once};
    }

    /// Adds a stretch to the sums of one or two tiles of tokens, and writes them if it is the last. Returns the sums
    /// that follow.
    template <int tiles>
    float* add_steps(const Stretch& stretch, Index tile, float* sums, PieceFetch& ahead) const {
        constexpr Index two = 2 * amx_tile, lines = tiles * two / amx_columns;
        float* const next = sums + tiles * two;
        const auto fetch_next = [&, lines_per_step = divide_up(lines, stretch.steps)](Index i) {
            ahead.fetch_some();
            for (Index line = i * lines_per_step; line < (i + 1) * lines_per_step; ++line)
                prefetch<1>(next + line * amx_columns);
        };
        multiply_tiles<tiles, 2, AmxUse::once>(
            {x_ + tokens_.offset(tile, stretch.step), amx_inputs, AmxTokens::tile_stride, AmxTokens::tile_size},
            {unpacked_, 16, amx_tile, two}, stretch.steps, {sums, 16, two, amx_tile}, stretch.step > 0, fetch_next);
        if (stretch.step + stretch.steps == tokens_.steps())
            for (Index t = 0; t < tiles; ++t)
                for (Index part = 0; part < amx_outputs; part += amx_columns)
                    out_.write(sums + t * two + part * amx_rows, (tile + t) * amx_rows, stretch.output + part);
        return next;
    }

    const Matrix& weights_;
    const AmxTokens& tokens_;
    const bfloat16* x_;
    AmxOutput out_;
    std::uint32_t* unpacked_;
    float* sums_;
};

/// x [tokens, inputs], of each product the weights [outputs, inputs] -> out [tokens, outputs].
template <class Matrix, class Workspace>
void multiply_by_tiles(ThreadPool& pool, MatrixView<const float> x, std::span<const Product<Matrix, float>> products,
                       Update update, Workspace& workspace) {
    using Block = AmxBlock<Matrix>;
    if (x.rows() == 0 || products.empty()) return;
    assert(x.cols() > 0);
    const AmxTokens tokens(x.rows(), amx_steps(products.front().weights));
    auto frame = workspace.frame();
    bfloat16* const packed = frame.template matrix<bfloat16>(1, tokens.size()).data();
    pool.for_each(tokens.tiles(), [&](Index, Index tile) noexcept { tokens.pack(x, tile, packed); });
    const auto scratch = frame.template matrix<std::uint32_t>(pool.threads(), Block::scratch_size(x.rows()));
    const auto size = [&](const Matrix& weights) {
        return TaskSize::blocks(pool.threads(), x.rows(), Block::most_tokens, weights.rows(), Block::most_outputs,
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
        const Index row_bytes = weights.view.stride() * static_cast<Index>(sizeof(bfloat16));
        return TaskSize(pool.threads(), x.rows(), x.rows(), weights.rows(), row_bytes, amx_rows);
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

#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/amx_product.hpp>
#include <mistral/device/cpu/amx_weights.hpp>
#include <mistral/device/cpu/avx512_dot.hpp>
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

/// Steps of inputs that are multiplied one after the other in registers: their weights stay in L1 while tokens pass.
inline constexpr Index amx_steps_at_once = 16;

/// x [tokens, inputs], rounded: a tile [tile_tokens, 32] of each step. What one stretch of steps reads lies together:
/// tiles of tokens a power of two apart would share few lines of a cache.
class AmxTokens {
  public:
    AmxTokens(Index tokens, Index steps)
        : tile_tokens_(std::min(amx_rows, tokens)), tiles_(divide_up(tokens, tile_tokens_)), steps_(steps) {}

    [[nodiscard]] Index tile_tokens() const { return tile_tokens_; }  ///< 16; fewer where there are no more
    [[nodiscard]] Index tiles() const { return tiles_; }
    [[nodiscard]] Index steps() const { return steps_; }
    [[nodiscard]] Index tile_size() const { return tile_tokens_ * amx_inputs; }
    /// From a tile of tokens to the next, with the same step.
    [[nodiscard]] Index tile_stride() const { return amx_steps_at_once * tile_size(); }
    [[nodiscard]] Index size() const { return divide_up(steps_, amx_steps_at_once) * tiles_ * tile_stride(); }
    [[nodiscard]] Index offset(Index tile, Index step) const {
        return (step / amx_steps_at_once * tiles_ + tile) * tile_stride() + step % amx_steps_at_once * tile_size();
    }

    /// One tile of tokens, with zeros behind the end.
    void pack(MatrixView<const float> x, Index tile, bfloat16* packed) const {
        for (Index step = 0; step < steps_; ++step)
            for (Index t = 0; t < tile_tokens_; ++t) {
                const Index token = tile * tile_tokens_ + t;
                bfloat16* const to = packed + offset(tile, step) + t * amx_inputs;
                const Index inputs =
                    token < x.rows() ? std::clamp<Index>(x.cols() - step * amx_inputs, 0, amx_inputs) : 0;
                if (inputs > 0) round_to_bfloat16(x.row(token) + step * amx_inputs, inputs, to);
                std::fill(to + inputs, to + amx_inputs, bfloat16(0));
            }
    }

  private:
    Index tile_tokens_;
    Index tiles_;
    Index steps_;
};

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
        const Index tile_tokens = tokens_.tile_tokens();
        const AmxRegisters registers(tile_tokens);
        const Index first = first_token / tile_tokens, last = divide_up(last_token, tile_tokens);
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
        multiply_tiles<tiles>({x_ + tokens_.offset(tile, step), amx_inputs, tokens_.tile_stride(), tokens_.tile_size()},
                              {unpacked_, 16, amx_tile, two}, steps, {sums, 16, two, amx_tile}, step > 0);
        if (step + steps == tokens_.steps())
            for (Index t = 0; t < tiles; ++t) write((tile + t) * tokens_.tile_tokens(), output, sums + t * two);
        return sums + tiles * two;
    }

    /// The sums of a tile's tokens with 32 outputs.
    void write(Index token, Index output, const float* sums) const {
        const Index tokens = std::min(tokens_.tile_tokens(), out_.rows() - token);
        for (Index part = 0; part < amx_outputs && output + part < out_.cols(); part += 16, sums += amx_tile) {
            const Index outputs = std::min<Index>(16, out_.cols() - output - part);
            const auto mask = static_cast<__mmask16>((1u << outputs) - 1);
            for (Index t = 0; t < tokens; ++t) {
                float* const to = out_.row(token + t) + output + part;
                __m512 value = _mm512_load_ps(sums + t * 16);
                if (update_ == Update::add) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), value);
                _mm512_mask_storeu_ps(to, mask, value);
            }
        }
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

template <std::same_as<Amx> Architecture, std::same_as<bfloat16> S, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const Activation<S>> x,
              std::span<const Product<HostMatrix<S>, Activation<S>>> products, Update update, Workspace& workspace) {
    multiply_by_tiles(pool, x, products, update, workspace);
}
template <std::same_as<Amx> Architecture, QuantizedScalar Q, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const float> x, std::span<const Product<PackedMatrix<Q>, float>> products,
              Update update, Workspace& workspace) {
    multiply_by_tiles(pool, x, products, update, workspace);
}

}  // namespace mistral::cpu
#endif

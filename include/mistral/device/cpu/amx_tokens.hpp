#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/amx_weights.hpp>
#include <mistral/device/cpu/avx512_dot.hpp>
#include <mistral/device/cpu/avx512_pairs.hpp>
#include <mistral/device/cpu/prefetch.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/device.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

/// Activations as tiles take them, and sums as they leave tiles.
namespace mistral::cpu {

/// 16 rows of x [tokens, inputs] from `first` on and the 32 inputs of a step, rounded, with zeros behind the end ->
/// tile [16, 32].
inline void round_tile(MatrixView<const float> x, Index first, Index step, bfloat16* tile) {
    for (Index token = first; token < first + amx_rows; ++token, tile += amx_inputs) {
        const Index inputs = token < x.rows() ? std::clamp<Index>(x.cols() - step * amx_inputs, 0, amx_inputs) : 0;
        if (inputs > 0) round_to_bfloat16(x.row(token) + step * amx_inputs, inputs, tile);
        std::fill(tile + inputs, tile + amx_inputs, bfloat16(0));
    }
}

/// Steps of inputs that are multiplied one after the other in registers: their weights stay in L1 while tokens pass.
inline constexpr Index amx_steps_at_once = 16;

/// x [tokens, inputs] as left operand, rounded: a tile [16, 32] of each step. What one stretch of steps reads
/// lies together: tiles of tokens a power of two apart would share few lines of a cache.
class AmxTokens {
  public:
    static constexpr Index tile_size = amx_rows * amx_inputs;
    static constexpr Index tile_stride = amx_steps_at_once * tile_size;  ///< to the next tile, with the same step

    AmxTokens(Index tokens, Index steps) : tiles_(divide_up(tokens, amx_rows)), steps_(steps) {}

    [[nodiscard]] Index tiles() const { return tiles_; }
    [[nodiscard]] Index steps() const { return steps_; }
    [[nodiscard]] Index size() const { return divide_up(steps_, amx_steps_at_once) * tiles_ * tile_stride; }
    [[nodiscard]] Index offset(Index tile, Index step) const {
        return (step / amx_steps_at_once * tiles_ + tile) * tile_stride + step % amx_steps_at_once * tile_size;
    }

    /// One tile of tokens, with zeros behind the end.
    void pack(MatrixView<const float> x, Index tile, bfloat16* packed) const {
        for (Index step = 0; step < steps_; ++step) round_tile(x, tile * amx_rows, step, packed + offset(tile, step));
    }

  private:
    Index tiles_;
    Index steps_;
};

/// x [tokens, inputs] as right operand: one or two tiles [16 pairs of inputs, 16 tokens] of each step, one step after
/// the other.
class AmxColumns {
  public:
    explicit AmxColumns(MatrixView<const float> x)
        : x_(x), tiles_(divide_up(x.rows(), amx_columns)), steps_(divide_up(x.cols(), amx_inputs)) {}

    [[nodiscard]] Index steps() const { return steps_; }
    [[nodiscard]] Index size() const { return steps_ * tiles_ * amx_tile; }

    /// One step, with zeros behind the end.
    void pack(Index step, std::uint32_t* packed) const {
        for (Index tile = 0; tile < tiles_; ++tile) {
            alignas(64) std::array<bfloat16, std::size_t{amx_rows * amx_inputs}> rows;
            round_tile(x_, tile * amx_rows, step, rows.data());
            transpose_pairs(rows.data(), amx_inputs, packed + (step * tiles_ + tile) * amx_tile, amx_columns);
        }
    }

  private:
    MatrixView<const float> x_;
    Index tiles_;
    Index steps_;
};

/// Where sums go as they leave tiles: [tokens, outputs], assigned or added.
class AmxOutput {
  public:
    AmxOutput(MatrixView<float> out, Update update)
        : out_(out), update_(update), passes_caches_(update == Update::assign && is_large(out) && is_aligned(out)) {}
    ~AmxOutput() {
        if (passes_caches_) _mm_sfence();
    }
    AmxOutput(const AmxOutput&) = delete;
    AmxOutput& operator=(const AmxOutput&) = delete;

    [[nodiscard]] Index tokens() const { return out_.rows(); }

    /// sums [16 tokens, 16 outputs] -> out(token …, output …), so many of both as there are.
    void write(const float* sums, Index token, Index output) const {
        if (output >= out_.cols()) return;
        const Index outputs = std::min<Index>(amx_columns, out_.cols() - output);
        const auto mask = static_cast<__mmask16>((1u << outputs) - 1);
        for (const Index last = std::min(token + amx_rows, out_.rows()); token < last; ++token, sums += amx_columns) {
            float* const to = out_.row(token) + output;
            __m512 value = _mm512_load_ps(sums);
            if (passes_caches_ && outputs == amx_columns) {
                _mm512_stream_ps(to, value);
                continue;
            }
            if (update_ == Update::add) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), value);
            _mm512_mask_storeu_ps(to, mask, value);
        }
    }

  private:
    /// 4 MB and more do not stay in caches until they are wanted: their lines need not be read before they are written.
    static bool is_large(MatrixView<float> out) { return out.rows() * out.cols() >= 1 << 20; }
    static bool is_aligned(MatrixView<float> out) {
        return reinterpret_cast<std::uintptr_t>(out.data()) % cache_line == 0 && out.stride() % amx_columns == 0;
    }

    MatrixView<float> out_;
    Update update_;
    bool passes_caches_;
};

}  // namespace mistral::cpu
#endif

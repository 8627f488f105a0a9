#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/amx_product.hpp>
#include <mistral/device/cpu/amx_tokens.hpp>
#include <mistral/device/cpu/amx_weights.hpp>
#include <mistral/device/cpu/avx512_pairs.hpp>
#include <mistral/device/device.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>

namespace mistral::cpu {

/// The products of bfloat16 weights with few tokens, for which memory is all: rows are left operands as they lie, 16
/// streams that memory gives faster than a single one, and tokens are right ones.
class AmxRowBlock {
  public:
    static constexpr Index most_tokens = 2 * amx_columns;

    /// Weights [outputs, inputs], x packed by AmxColumns, out [tokens, outputs].
    AmxRowBlock(MatrixView<const bfloat16> weights, const std::uint32_t* x, MatrixView<float> out, Update update)
        : weights_(weights), x_(x), out_(out, update) {
        assert(out.rows() <= most_tokens);
    }

    /// The outputs first … last - 1, of which `first` begins a tile.
    void run(Index first, Index last) const {
        const AmxRegisters registers(amx_rows);
        for (; first < last; first += amx_rows)
            if (out_.tokens() > amx_columns)
                multiply<2>(first);
            else
                multiply<1>(first);
    }

  private:
    template <int tiles>
    void multiply(Index output) const {
        constexpr Index step_size = tiles * amx_tile;
        alignas(64) std::array<float, std::size_t{step_size}> sums;
        const AmxSums to{sums.data(), amx_columns, 0, amx_tile};
        const Index whole = output + amx_rows <= weights_.rows() ? weights_.cols() / amx_inputs : 0;
        if (whole > 0)
            multiply_tiles<1, tiles, AmxUse::once>({weights_.row(output), weights_.stride(), 0, amx_inputs},
                                                   {x_, amx_columns, amx_tile, step_size}, whole, to, false);
        for (Index step = whole; step < divide_up(weights_.cols(), amx_inputs); ++step) {
            alignas(64) std::array<bfloat16, std::size_t{amx_rows * amx_inputs}> copy;
            copy_tile(weights_, output, step, copy.data());
            multiply_tiles<1, tiles>({copy.data(), amx_inputs, 0, 0}, {x_ + step * step_size, amx_columns, amx_tile, 0},
                                     1, to, step > 0);
        }
        for (Index tile = 0; tile < tiles; ++tile) {
            alignas(64) std::array<float, std::size_t{amx_tile}> by_token;
            transpose(sums.data() + tile * amx_tile, amx_columns, by_token.data(), amx_rows);
            out_.write(by_token.data(), tile * amx_columns, output);
        }
    }

    MatrixView<const bfloat16> weights_;
    const std::uint32_t* x_;
    AmxOutput out_;
};

}  // namespace mistral::cpu
#endif

#pragma once

#include <mistral/base/types.hpp>
#include <mistral/device/cpu/amx.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <cstddef>

namespace mistral::cpu {

/// Where the tiles of an operand lie, in bytes: the rows of a tile, the next tile of tokens or of outputs, and the next
/// step of 16 pairs, so far apart.
struct AmxOperand {
    const std::byte* first;
    Index row, tile, step;

    template <class T>
    AmxOperand(const T* from, Index rows, Index tiles, Index steps)  // in elements
        : first(reinterpret_cast<const std::byte*>(from)),
          row(rows * Index{sizeof(T)}),
          tile(tiles * Index{sizeof(T)}),
          step(steps * Index{sizeof(T)}) {}
};

/// Where sums lie: rows, the next tile of tokens, and the next of outputs, so many elements apart.
struct AmxSums {
    float* first;
    Index row, token_tile, output_tile;
};

/// One or two tiles of tokens with two of outputs: as many products for each tile that is loaded as registers allow.
/// sums = or += the products of all steps.
template <int token_tiles>
void multiply_tiles(const AmxOperand& tokens, const AmxOperand& weights, Index steps, const AmxSums& sums, bool adds) {
    using Registers = AmxRegisters;
    constexpr bool two = token_tiles == 2;
    const Index row_bytes = sums.row * Index{sizeof(float)};
    if (adds) {
        Registers::load<0>(sums.first, row_bytes);
        Registers::load<1>(sums.first + sums.output_tile, row_bytes);
        if constexpr (two) Registers::load<2>(sums.first + sums.token_tile, row_bytes);
        if constexpr (two) Registers::load<3>(sums.first + sums.token_tile + sums.output_tile, row_bytes);
    } else {
        Registers::clear<0>();
        Registers::clear<1>();
        if constexpr (two) Registers::clear<2>();
        if constexpr (two) Registers::clear<3>();
    }
    // In registers, as the assembly may change any memory.
    const auto [x_first, x_row, x_tile, x_step] = tokens;
    const auto [weights_first, weights_row, weights_tile, weights_step] = weights;
    const std::byte* x = x_first;
    const std::byte* weight = weights_first;
    for (Index i = 0; i < steps; ++i, x += x_step, weight += weights_step) {
        Registers::load<4>(x, x_row);
        Registers::load<6>(weight, weights_row);
        Registers::multiply_add<0, 4, 6>();
        Registers::load<7>(weight + weights_tile, weights_row);
        Registers::multiply_add<1, 4, 7>();
        if constexpr (two) {
            Registers::load<5>(x + x_tile, x_row);
            Registers::multiply_add<2, 5, 6>();
            Registers::multiply_add<3, 5, 7>();
        }
    }
    Registers::store<0>(sums.first, row_bytes);
    Registers::store<1>(sums.first + sums.output_tile, row_bytes);
    if constexpr (two) Registers::store<2>(sums.first + sums.token_tile, row_bytes);
    if constexpr (two) Registers::store<3>(sums.first + sums.token_tile + sums.output_tile, row_bytes);
}

}  // namespace mistral::cpu
#endif

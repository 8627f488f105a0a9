#pragma once

#include <mistral/base/types.hpp>
#include <mistral/device/cpu/amx.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <cstddef>

namespace mistral::cpu {

/// Where the tiles of an operand lie, in bytes: the rows of a tile, the next tile, and the next step of 16 pairs, so
/// far apart.
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

/// Where sums lie: rows, those of the next tile of the left operand, and of the right one, so many elements apart.
struct AmxSums {
    float* first;
    Index row, left_tile, right_tile;
};

/// One or two tiles of the left operand with one or two of the right: the more, the more products are there for each
/// tile that is loaded. sums = or += the products of all steps. fetch(i) is called in step i, for what is wanted next.
template <int left_tiles, int right_tiles, AmxUse left_use = AmxUse::again, class Fetch>
void multiply_tiles(const AmxOperand& left, const AmxOperand& right, Index steps, const AmxSums& sums, bool adds,
                    const Fetch& fetch) {
    using Registers = AmxRegisters;
    constexpr bool lower = left_tiles == 2, beside = right_tiles == 2, diagonal = lower && beside;
    float* const to[] = {sums.first, sums.first + sums.right_tile, sums.first + sums.left_tile,
                         sums.first + sums.left_tile + sums.right_tile};
    const Index row_bytes = sums.row * Index{sizeof(float)};
    if (adds) {
        Registers::load<0>(to[0], row_bytes);
        if constexpr (beside) Registers::load<1>(to[1], row_bytes);
        if constexpr (lower) Registers::load<2>(to[2], row_bytes);
        if constexpr (diagonal) Registers::load<3>(to[3], row_bytes);
    } else {
        Registers::clear<0>();
        if constexpr (beside) Registers::clear<1>();
        if constexpr (lower) Registers::clear<2>();
        if constexpr (diagonal) Registers::clear<3>();
    }
    // In registers, as the assembly may change any memory.
    const auto [left_first, left_row, left_tile, left_step] = left;
    const auto [right_first, right_row, right_tile, right_step] = right;
    const std::byte* a = left_first;
    const std::byte* b = right_first;
    for (Index i = 0; i < steps; ++i, a += left_step, b += right_step) {
        fetch(i);
        Registers::load<4, left_use>(a, left_row);
        Registers::load<6>(b, right_row);
        Registers::multiply_add<0, 4, 6>();
        if constexpr (beside) {
            Registers::load<7>(b + right_tile, right_row);
            Registers::multiply_add<1, 4, 7>();
        }
        if constexpr (lower) {
            Registers::load<5, left_use>(a + left_tile, left_row);
            Registers::multiply_add<2, 5, 6>();
        }
        if constexpr (diagonal) Registers::multiply_add<3, 5, 7>();
    }
    Registers::store<0>(to[0], row_bytes);
    if constexpr (beside) Registers::store<1>(to[1], row_bytes);
    if constexpr (lower) Registers::store<2>(to[2], row_bytes);
    if constexpr (diagonal) Registers::store<3>(to[3], row_bytes);
}
template <int left_tiles, int right_tiles, AmxUse left_use = AmxUse::again>
void multiply_tiles(const AmxOperand& left, const AmxOperand& right, Index steps, const AmxSums& sums, bool adds) {
    multiply_tiles<left_tiles, right_tiles, left_use>(left, right, steps, sums, adds, [](Index) {});
}

}  // namespace mistral::cpu
#endif

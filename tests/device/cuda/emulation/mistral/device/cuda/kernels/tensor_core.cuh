#pragma once

#include <mistral/scalar/scalar.hpp>

#include "block.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>

/// The library's header of this name for the processor, from the layouts that PTX's documentation states ("Matrix
/// fragments for mma.m16n8k16", "ldmatrix"). It is found first where the emulation's headers are.
namespace mistral::cuda {

namespace emulated {

/// A register that holds two elements.
template <class C>
float element(unsigned pair, unsigned which) {
    return static_cast<float>(std::bit_cast<C>(static_cast<std::uint16_t>(pair >> 16 * which)));
}

/// What this lane gets of four matrices [8, 8]: of each one element at (row, column), and one at (row2, column2).
inline void load(unsigned (&matrices)[4], const void* row, const char* function, unsigned row1, unsigned column1,
                 unsigned row2, unsigned column2) {
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
        emulation::kernel_error("a matrix's row does not begin at a multiple of 16 bytes");
    const auto rows = emulation::exchange(row, function);
    const auto bits = [&](unsigned matrix, unsigned r, unsigned column) {
        std::uint16_t element;
        std::memcpy(&element, static_cast<const std::byte*>(rows[8 * matrix + r]) + 2 * column, 2);
        return unsigned{element};
    };
    for (unsigned m = 0; m < 4; ++m) matrices[m] = bits(m, row1, column1) | bits(m, row2, column2) << 16;
}

}  // namespace emulated

inline void load_matrices(unsigned (&matrices)[4], const void* row) {
    const unsigned group = emulation::position.lane / 4;
    const unsigned place = emulation::position.lane % 4;
    emulated::load(matrices, row, __func__, group, 2 * place, group, 2 * place + 1);
}

inline void load_transposed_matrices(unsigned (&matrices)[4], const void* row) {
    const unsigned group = emulation::position.lane / 4;
    const unsigned place = emulation::position.lane % 4;
    emulated::load(matrices, row, __func__, 2 * place, group, 2 * place + 1, group);
}

template <class C>
void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b_upper, unsigned b_lower) {
    static_assert(std::same_as<C, half> || std::same_as<C, bfloat16>);
    struct Operands {
        unsigned a[4];
        unsigned b[2];
    };
    const auto lanes = emulation::exchange(Operands{{a[0], a[1], a[2], a[3]}, {b_upper, b_lower}}, __func__);
    // Element (row, k) of a is in the lane of group row % 8 and place k % 8 / 2, that of b (k, column) in the lane of
    // group column and that place.
    const auto of_a = [&](unsigned row, unsigned k) {
        return emulated::element<C>(lanes[row % 8 * 4 + k % 8 / 2].a[k / 8 * 2 + row / 8], k % 2);
    };
    const auto of_b = [&](unsigned k, unsigned column) {
        return emulated::element<C>(lanes[column * 4 + k % 8 / 2].b[k / 8], k % 2);
    };
    const unsigned group = emulation::position.lane / 4;
    const unsigned place = emulation::position.lane % 4;
    for (unsigned i = 0; i < 4; ++i) {
        double sum = 0;
        for (unsigned k = 0; k < 16; ++k)
            sum += double{of_a(group + i / 2 * 8, k)} * double{of_b(k, 2 * place + i % 2)};
        sums[i] += static_cast<float>(sum);
    }
}

template <class C>
unsigned round_pair(float low, float high) {
    static_assert(std::same_as<C, half> || std::same_as<C, bfloat16>);
    return std::bit_cast<std::uint16_t>(static_cast<C>(low)) |
           unsigned{std::bit_cast<std::uint16_t>(static_cast<C>(high))} << 16;
}

inline float fast_exp2(float x) {
    return std::exp2(x);
}

}  // namespace mistral::cuda

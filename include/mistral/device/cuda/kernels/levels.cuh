#pragma once

#include <mistral/device/cuda/kernels/instructions.cuh>
#include <mistral/scalar/quantization.hpp>
#include <mistral/scalar/types.hpp>

#include <cuda_runtime.h>

#include <concepts>
#include <cstdint>

/// Levels of quantised weights as floats, without the conversions of integers, which are slow.
namespace mistral::cuda {

/// The float 2^23 + b for byte `i` of a word, whose bits are those of 2^23 with b as the lowest eight.
template <int i>
__device__ __forceinline__ float float_of_byte(unsigned word) {
    return __uint_as_float(permute_bytes(word, 0x4b000000u, 0x7440u + i));
}

/// Bytes from unsigned to float, less 128 each.
__device__ __forceinline__ void widen_biased(unsigned bytes, float* to) {
    constexpr float bias = 8388608 + 128;
    to[0] = float_of_byte<0>(bytes) - bias;
    to[1] = float_of_byte<1>(bytes) - bias;
    to[2] = float_of_byte<2>(bytes) - bias;
    to[3] = float_of_byte<3>(bytes) - bias;
}

/// What makes levels of codes. It travels as a kernel's argument: constants in the code would be copied to a register
/// before each use.
template <QuantizedScalar Q>
struct Levels;

template <>
struct Levels<Q8> {
    /// The four levels of a word of codes.
    __device__ __forceinline__ void widen(unsigned codes, float* to) const { widen_biased(codes ^ 0x80808080u, to); }
};

template <>
struct Levels<Q4> {
    /// The eight levels of a word of codes, four bits each, from its lowest on.
    __device__ __forceinline__ void widen(unsigned codes, float* to) const {
        const unsigned places = codes & 0x77777777u;
        const unsigned halves = (codes >> 1 & 0x44444444u) | same_place_;
        widen_biased(look_up(places, halves), to);
        widen_biased(look_up(places >> 16, halves >> 16), to + 4);
    }

  private:
    /// Four levels from index `first` on, as a word of bytes that are the levels plus 128.
    [[nodiscard]] static constexpr unsigned biased(unsigned first) {
        unsigned word = 0;
        for (unsigned i = 0; i < 4; ++i) word |= static_cast<unsigned>(q4_levels[first + i] + 128) << 8 * i;
        return word;
    }

    /// Four of them, by the lowest 16 bits of where in a half of the table each is, and of which half that is.
    __device__ __forceinline__ unsigned look_up(unsigned places, unsigned halves) const {
        const unsigned lower = permute_bytes(table_[0], table_[1], places);
        const unsigned upper = permute_bytes(table_[2], table_[3], places);
        return permute_bytes(lower, upper, halves);
    }

    unsigned same_place_ = 0x32103210;
    unsigned table_[4] = {biased(0), biased(4), biased(8), biased(12)};
};

}  // namespace mistral::cuda

#pragma once

#include "vector_types.h"

#include <math.h>

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>

// Fast functions of the GPU are exact ones here: tests' tolerances must allow for what the GPU's err.

inline unsigned __float_as_uint(float x) {
    return std::bit_cast<unsigned>(x);
}
inline int __float_as_int(float x) {
    return std::bit_cast<int>(x);
}
inline float __uint_as_float(unsigned x) {
    return std::bit_cast<float>(x);
}
inline float __int_as_float(int x) {
    return std::bit_cast<float>(x);
}
inline int __float2int_rn(float x) {
    return int(std::nearbyint(x));
}
inline float __int2float_rn(int x) {
    return float(x);
}

inline float __fmaf_rn(float a, float b, float c) {
    return std::fma(a, b, c);
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fdividef(float a, float b) {
    return a / b;
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __frcp_rn(float x) {
    return 1 / x;
}
inline float __fsqrt_rn(float x) {
    return std::sqrt(x);
}
inline float __frsqrt_rn(float x) {
    return 1 / std::sqrt(x);
}
inline float rsqrtf(float x) {
    return 1 / std::sqrt(x);
}
inline float __saturatef(float x) {
    return x > 0 ? (x < 1 ? x : 1) : 0;
}

// The C library declares these names too, for itself.
#define __expf(x) ::expf(x)
#define __exp10f(x) ::powf(10.0f, x)
#define __logf(x) ::logf(x)
#define __log2f(x) ::log2f(x)
#define __sinf(x) ::sinf(x)
#define __cosf(x) ::cosf(x)
#define __powf(x, y) ::powf(x, y)

template <std::integral T>
constexpr T min(T a, T b) {
    return b < a ? b : a;
}
template <std::integral T>
constexpr T max(T a, T b) {
    return a < b ? b : a;
}
template <std::floating_point T>
T min(T a, T b) {
    return std::fmin(a, b);
}
template <std::floating_point T>
T max(T a, T b) {
    return std::fmax(a, b);
}

inline int __popc(unsigned x) {
    return std::popcount(x);
}
inline int __clz(int x) {
    return std::countl_zero(unsigned(x));
}
inline int __ffs(int x) {
    return x == 0 ? 0 : std::countr_zero(unsigned(x)) + 1;
}

/// Byte i of the result is the one of (y, x), counted from x's lowest, that the lowest three bits of the selector's
/// nibble i name; its highest bit asks for the byte's sign in all bits.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const std::uint64_t bytes = std::uint64_t(y) << 32 | x;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned nibble = selector >> 4 * i;
        unsigned byte = unsigned(bytes >> 8 * (nibble & 7)) & 0xff;
        if ((nibble & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
        result |= byte << 8 * i;
    }
    return result;
}

namespace emulation {

/// The sum of four products of bytes, modulo 2^32.
template <class Byte>
unsigned dot_of_bytes(unsigned a, unsigned b, unsigned sum) {
    for (unsigned i = 0; i < 4; ++i) sum += unsigned(int(Byte(a >> 8 * i)) * int(Byte(b >> 8 * i)));
    return sum;
}

}  // namespace emulation

inline int __dp4a(int a, int b, int sum) {
    return int(emulation::dot_of_bytes<std::int8_t>(unsigned(a), unsigned(b), unsigned(sum)));
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
    return emulation::dot_of_bytes<std::uint8_t>(a, b, sum);
}
inline int __dp4a(char4 a, char4 b, int sum) {
    return __dp4a(std::bit_cast<int>(a), std::bit_cast<int>(b), sum);
}
inline unsigned __dp4a(uchar4 a, uchar4 b, unsigned sum) {
    return __dp4a(std::bit_cast<unsigned>(a), std::bit_cast<unsigned>(b), sum);
}

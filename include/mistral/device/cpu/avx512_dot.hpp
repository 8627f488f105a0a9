#pragma once

#include <mistral/device/cpu/simd.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <array>
#include <bit>
#include <concepts>

/// The primitives of Avx512Dot, where they differ from those of plain AVX-512.
namespace mistral::cpu {

/// The first `count` of 32 elements of 16 bits, zeros behind them.
[[nodiscard]] inline __m512i load_pairs(const bfloat16* elements, Index count) {
    return _mm512_maskz_loadu_epi16(count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1, elements);
}

/// x [n] -> rounded [n], to the nearest, ties to even.
inline void round_to_bfloat16(const float* x, Index n, bfloat16* rounded) {
    constexpr Index vector = 16;
    Index i = 0;
    for (; i + vector <= n; i += vector)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(rounded + i),
                            std::bit_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i))));
    for (; i < n; ++i) rounded[i] = static_cast<bfloat16>(x[i]);
}

/// sum + the products of the lanes' pairs. The products' pairs are added in binary32 and the sum once more, each time
/// rounded to the nearest; subnormal numbers count as zero.
[[nodiscard]] inline Batch<float, Avx512Dot> multiply_add(const __m512i& weights, const __m512i& x,
                                                          Batch<float, Avx512Dot> sum) {
    __m512 s = sum;
    asm("vdpbf16ps %2, %1, %0" : "+v"(s) : "v"(weights), "v"(x));
    return s;
}

/// Pairs of weights meet pairs of activations, which are rounded to bfloat16 for it.
template <>
struct WeightLanes<bfloat16, Avx512Dot> {
    using Packed = bfloat16;
    using Operand = __m512i;
    static constexpr Index step = 32;

    static Operand load(const bfloat16* weights) { return _mm512_loadu_si512(weights); }
    static Operand load_packed(const bfloat16* x) { return load(x); }
};

/// x [n] -> packed [padded_to_steps(n)]: rounded, zeros behind the end.
template <std::same_as<bfloat16> S, std::same_as<Avx512Dot> Architecture>
void pack(const float* x, Index n, bfloat16* packed) {
    round_to_bfloat16(x, n, packed);
    std::fill(packed + n, packed + padded_to_steps<S, Architecture>(n), bfloat16(0));
}

}  // namespace mistral::cpu
#endif

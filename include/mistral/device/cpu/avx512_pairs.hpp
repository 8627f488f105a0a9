#pragma once

#include <mistral/device/cpu/avx512_dot.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <array>
#include <cstdint>

/// Rearranging pairs of bfloat16 elements, with which dot products are made: an element of 32 bits is one pair.
namespace mistral::cpu {

/// Transposes 16 x 16 elements of 32 bits: row r begins at from + r * from_stride, column c at to + c * to_stride.
[[gnu::flatten]] inline void transpose(const bfloat16* from, Index from_stride, std::uint32_t* to, Index to_stride) {
    __m512i a[16], b[16];
    unroll<8>([&](auto i) {
        const __m512i even = _mm512_loadu_si512(from + Index{2 * i} * from_stride);
        const __m512i odd = _mm512_loadu_si512(from + Index{2 * i + 1} * from_stride);
        a[2 * i] = _mm512_unpacklo_epi32(even, odd);
        a[2 * i + 1] = _mm512_unpackhi_epi32(even, odd);
    });
    unroll<8>([&](auto i) {
        constexpr std::size_t four = i / 2 * 4, half = i % 2;
        b[four + 2 * half] = _mm512_unpacklo_epi64(a[four + half], a[four + half + 2]);
        b[four + 2 * half + 1] = _mm512_unpackhi_epi64(a[four + half], a[four + half + 2]);
    });
    // b[4 i + c] holds, in its quarter q, column 4 q + c of the rows 4 i … 4 i + 3.
    unroll<4>([&](auto c) {
        const __m512i low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88);
        const __m512i low_odd = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);
        const __m512i high = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
        const __m512i high_odd = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
        const auto store = [&](Index column, __m512i elements) {
            _mm512_store_si512(to + column * to_stride, elements);
        };
        store(c, _mm512_shuffle_i32x4(low, high, 0x88));
        store(4 + c, _mm512_shuffle_i32x4(low_odd, high_odd, 0x88));
        store(8 + c, _mm512_shuffle_i32x4(low, high, 0xdd));
        store(12 + c, _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd));
    });
}

/// Interleaves the elements of two rows: a0 b0 a1 b1 … a31 b31, as pairs[0] and pairs[1].
inline void interleave(const bfloat16* a, const bfloat16* b, __m512i* pairs) {
    static constexpr auto order = [] {
        std::array<std::uint16_t, 64> indices{};
        for (std::uint16_t i = 0; i < 64; ++i) indices[i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 32);
        return indices;
    }();
    const __m512i x = _mm512_loadu_si512(a);
    const __m512i y = _mm512_loadu_si512(b);
    pairs[0] = _mm512_permutex2var_epi16(x, _mm512_loadu_si512(order.data()), y);
    pairs[1] = _mm512_permutex2var_epi16(x, _mm512_loadu_si512(order.data() + 32), y);
}

}  // namespace mistral::cpu
#endif

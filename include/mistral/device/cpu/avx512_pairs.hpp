#pragma once

#include <mistral/device/cpu/avx512_dot.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <array>
#include <cstdint>

/// Rearranging pairs of bfloat16 elements, with which dot products are made: an element of 32 bits is one pair. The
/// same for integers of 8 bits, which become bfloat16 on the way, exactly.
namespace mistral::cpu {

/// Transposes 16 x 16 elements of 32 bits: row r begins at from + r * from_stride, column c at to + c * to_stride.
template <class From, class To>
[[gnu::flatten]] void transpose(const From* from, Index from_stride, To* to, Index to_stride) {
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

/// Sixteen lanes whose lowest bytes, flipped by `flip`, are numbers and 128 -> these numbers: they are put into the
/// lowest bits of 2^23, which is then subtracted.
template <std::uint8_t flip>
[[nodiscard]] __m512 numbers_of_bytes(__m512i lanes) {
    constexpr int and_then_xor = 0x6a;  // bit 4 a + 2 b + c is (a & b) ^ c
    const __m512i bits =
        _mm512_ternarylogic_epi32(lanes, _mm512_set1_epi32(0xff), _mm512_set1_epi32(0x4b000000 | flip), and_then_xor);
    return _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0x1p23f + 128));
}

/// Sixteen lanes of four integers -> those of their first and their last two as pairs. The upper half of a number so
/// small is all there is to it.
inline void widen_quads(__m512i quads, __m512i* pairs) {
    const auto number = [](__m512i lowest) { return _mm512_castps_si512(numbers_of_bytes<128>(lowest)); };
    const auto pair = [&](__m512i even, __m512i odd) {
        return _mm512_or_si512(_mm512_srli_epi32(number(even), 16), number(odd));
    };
    pairs[0] = pair(quads, _mm512_srli_epi32(quads, 8));
    pairs[1] = pair(_mm512_srli_epi32(quads, 16), _mm512_srli_epi32(quads, 24));
}

/// Transposes 16 rows of one cache line each: 32 bfloat16 become 16 rows of pairs, 64 integers 32 of them.
inline void transpose_pairs(const bfloat16* from, Index from_stride, std::uint32_t* to, Index to_stride) {
    transpose(from, from_stride, to, to_stride);
}
inline void transpose_pairs(const std::int8_t* from, Index from_stride, std::uint32_t* to, Index to_stride) {
    alignas(64) std::array<std::uint32_t, 16 * 16> quads;
    transpose(from, from_stride, quads.data(), 16);
    for (Index quad = 0; quad < 16; ++quad) {
        __m512i pairs[2];
        widen_quads(_mm512_load_si512(quads.data() + 16 * quad), pairs);
        _mm512_store_si512(to + 2 * quad * to_stride, pairs[0]);
        _mm512_store_si512(to + (2 * quad + 1) * to_stride, pairs[1]);
    }
}

/// Interleaves 32 elements of two rows of integers.
inline void interleave(const std::int8_t* a, const std::int8_t* b, __m512i* pairs) {
    const auto number = [](const std::int8_t* codes) {
        const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
        return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen)));
    };
    for (int i = 0; i < 2; ++i)
        pairs[i] = _mm512_or_si512(_mm512_srli_epi32(number(a + 16 * i), 16), number(b + 16 * i));
}

}  // namespace mistral::cpu
#endif

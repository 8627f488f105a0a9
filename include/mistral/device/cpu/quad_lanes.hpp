#pragma once

#include <mistral/device/cpu/avx512_dot.hpp>
#include <mistral/device/cpu/core_kind.hpp>
#include <mistral/device/cpu/prefetch.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/scalar/quantization.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace mistral::cpu {

/// The levels of Q4 as weights stand in products.
inline constexpr auto unsigned_q4_levels = [] {
    std::array<std::uint8_t, q4_levels.size()> all{};
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint8_t>(q4_levels[i] + 128);
    return all;
}();

/// How panels are read the fastest.
struct PanelReading {
    int streams;                    ///< so many panels at the same time, for one token: 1, 2 or 4
    int tokens_by_hardware;         ///< one tile of more tokens fetches some groups ahead: hardware alone is slower
    bool fetches_beside = false;    ///< each line shortly before it is wanted, evenly, for one token
    bool into_first_cache = false;  ///< what is fetched; or else into L2
    bool unpacks_once = true;       ///< Q4 for many tokens; or else in every tile, beside its products

    /// By QuadLanes of the instruction set where cores want nothing else.
    template <QuantizedScalar Q, class Lanes>
    static constexpr PanelReading of(CoreKind core_kind) {
        constexpr bool is_q4 = std::same_as<Q, Q4>;
        if (core_kind == CoreKind::intel)
            return {.streams = is_q4 ? 4 : 2, .tokens_by_hardware = 1, .fetches_beside = true};
        if (core_kind == CoreKind::zen5)
            return {.streams = 2,
                    .tokens_by_hardware = 1,
                    .fetches_beside = is_q4,
                    .into_first_cache = true,
                    .unpacks_once = Lanes::template reading<Q>().unpacks_once};
        return Lanes::template reading<Q>();
    }

    void fetch(const std::byte* line) const {
        if (into_first_cache)
            prefetch<1>(line);
        else
            prefetch<2>(line);
    }
};

/// The 32 rows of a panel as vectors of integers, and what is done with them: the primitives of quantised products that
/// depend on the instruction set. A quad is four weights of each row, which meet four digits of a token. Weights are
/// unsigned, level + 128, and sums start at what makes up for that. Here for every set, in a form that compilers can
/// turn into its vectors.
template <class Architecture>
struct QuadLanes {
    using Digit = std::int8_t;
    static constexpr std::size_t vectors = 1;
    template <QuantizedScalar Q>
    static constexpr int tokens(int, bool) {  // in a tile, by planes of digits, and whether the tile holds all tokens
        return 1;
    }
    static constexpr std::size_t vectors_at_once(int) { return vectors; }  // by tokens
    template <QuantizedScalar Q>
    static constexpr PanelReading reading() {
        return {.streams = 1, .tokens_by_hardware = 1};
    }
    struct Integers {
        std::array<std::int32_t, 32> lanes;
    };
    struct Floats {
        std::array<float, 32> lanes;
    };
    struct Quads {
        std::array<std::uint8_t, 128> levels;
    };

    static Floats zero() { return {}; }
    static Integers start(std::int32_t offset) {
        Integers all;
        all.lanes.fill(offset);
        return all;
    }
    template <QuantizedScalar Q, std::size_t count>
    static void load_pair(const std::byte* codes, Quads (&quads)[2][count]) {
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(codes);
        for (std::size_t i = 0; i < 128; ++i)
            if constexpr (std::same_as<Q, Q8>) {
                quads[0][0].levels[i] = bytes[i];
                quads[1][0].levels[i] = bytes[128 + i];
            } else {
                quads[0][0].levels[i] = unsigned_q4_levels[bytes[i] & 15u];
                quads[1][0].levels[i] = unsigned_q4_levels[bytes[i] >> 4];
            }
    }
    static Integers dot(const Quads& weights, const std::int8_t* x, Integers sum) {
        for (std::size_t r = 0; r < 32; ++r)
            for (std::size_t i = 0; i < 4; ++i) sum.lanes[r] += weights.levels[4 * r + i] * x[i];
        return sum;
    }
    static Integers join(const Integers& upper, const Integers& lower) {
        Integers sum;
        for (std::size_t r = 0; r < 32; ++r) sum.lanes[r] = upper.lanes[r] * 128 + lower.lanes[r];
        return sum;
    }
    static Floats load_scales(const std::byte* scales) {
        std::array<half, 32> halves;
        std::memcpy(halves.data(), scales, sizeof(halves));
        Floats all;
        for (std::size_t r = 0; r < 32; ++r) all.lanes[r] = static_cast<float>(halves[r]);
        return all;
    }
    static Floats multiply_add(const Integers& products, const Floats& scales, float scale, Floats sum) {
        for (std::size_t r = 0; r < 32; ++r)
            sum.lanes[r] = std::fma(static_cast<float>(products.lanes[r]), scales.lanes[r] * scale, sum.lanes[r]);
        return sum;
    }
    static Floats load(const float* sums) {
        Floats all;
        std::copy_n(sums, 32, all.lanes.data());
        return all;
    }
    static void store(const Floats& sums, float* to) { std::copy_n(sums.lanes.data(), 32, to); }
};

#if defined(MISTRAL_HAS_AVX512_DOT)
template <>
struct QuadLanes<Avx512Dot> {
    using Digit = std::int8_t;
    static constexpr std::size_t vectors = 2;
    template <QuantizedScalar Q>
    static constexpr int tokens(int planes, bool alone) {  // of 32 registers, 24 hold sums
        if (planes == 2) return 4;
        return alone ? 8 : 6;  // 8 are a little slower, but twice over the weights would be slower still
    }
    static constexpr std::size_t vectors_at_once(int tokens) { return tokens <= 6 ? vectors : 1; }
    template <QuantizedScalar Q>  // two streams where there is little to read between two sums
    static constexpr PanelReading reading() {
        constexpr bool is_q4 = std::same_as<Q, Q4>;
        return {.streams = is_q4 ? 2 : 1, .tokens_by_hardware = is_q4 ? 1 : 6, .unpacks_once = false};
    }
    using Integers = __m512i;
    using Floats = __m512;
    using Quads = __m512i;

    static Floats zero() { return _mm512_setzero_ps(); }
    static Integers start(std::int32_t offset) { return _mm512_set1_epi32(offset); }

    template <QuantizedScalar Q, std::size_t count>
    static void load_pair(const std::byte* codes, Quads (&quads)[2][count]) {
        unroll<count>([&](auto v) {
            const __m512i first = _mm512_loadu_si512(codes + 64 * v);
            if constexpr (std::same_as<Q, Q8>) {
                quads[0][v] = first;
                quads[1][v] = _mm512_loadu_si512(codes + 128 + 64 * v);
            } else {
                const __m512i lower = _mm512_set1_epi8(15);
                quads[0][v] = _mm512_shuffle_epi8(levels(), _mm512_and_si512(first, lower));
                quads[1][v] = _mm512_shuffle_epi8(levels(), _mm512_and_si512(_mm512_srli_epi16(first, 4), lower));
            }
        });
    }
    /// In assembly, since GCC 12 moves the sums of the intrinsic to memory and back.
    static Integers dot(Quads weights, const std::int8_t* x, Integers sum) {
        std::int32_t quad;
        std::memcpy(&quad, x, sizeof(quad));
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(_mm512_set1_epi32(quad)));
        return sum;
    }
    static Integers join(Integers upper, Integers lower) {
        return _mm512_add_epi32(_mm512_slli_epi32(upper, 7), lower);
    }
    static Floats load_scales(const std::byte* scales) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
    }
    static Floats multiply_add(Integers products, Floats scales, float scale, Floats sum) {
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), _mm512_mul_ps(scales, _mm512_set1_ps(scale)), sum);
    }
    static Floats load(const float* sums) { return _mm512_loadu_ps(sums); }
    static void store(Floats sums, float* to) { _mm512_storeu_ps(to, sums); }

  private:
    static __m512i levels() {
        return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(unsigned_q4_levels.data())));
    }
};
#endif

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
/// AVX2 has no dot products of bytes that are as exact and as fast as those of pairs of 16 bits: levels are widened,
/// and activations are numbers of 16 bits. The even and the odd weights of a quad become a pair each, without a
/// shuffle: the numbers of a quad lie in the order 0, 2, 1, 3.
template <>
struct QuadLanes<xsimd::fma3<xsimd::avx2>> {
    using Digit = std::int16_t;
    static constexpr std::size_t vectors = 4;
    template <QuantizedScalar Q>
    static constexpr int tokens(int, bool) {  // the more, the less often Q4 is unpacked
        return std::same_as<Q, Q4> ? 8 : 4;
    }
    static constexpr std::size_t vectors_at_once(int tokens) {  // of 16 registers, 8 hold products
        return tokens <= 2 ? vectors : tokens <= 4 ? 2 : 1;
    }
    template <QuantizedScalar Q>
    static constexpr PanelReading reading() {
        return {.streams = 2, .tokens_by_hardware = 1, .fetches_beside = true};
    }
    using Integers = __m256i;
    using Floats = __m256;
    using Quads = __m256i;

    static Floats zero() { return _mm256_setzero_ps(); }
    static Integers start(std::int32_t offset) { return _mm256_set1_epi32(offset); }

    template <QuantizedScalar Q, std::size_t count>
    static void load_pair(const std::byte* codes, Quads (&quads)[2][count]) {
        unroll<count>([&](auto v) {
            const __m256i first = load(codes + 32 * v);
            if constexpr (std::same_as<Q, Q8>) {
                quads[0][v] = first;
                quads[1][v] = load(codes + 128 + 32 * v);
            } else {
                const __m256i lower = _mm256_set1_epi8(15);
                quads[0][v] = _mm256_shuffle_epi8(levels(), _mm256_and_si256(first, lower));
                quads[1][v] = _mm256_shuffle_epi8(levels(), _mm256_and_si256(_mm256_srli_epi16(first, 4), lower));
            }
        });
    }
    static Integers dot(Quads levels, const std::int16_t* x, Integers sum) {
        Quads pairs[2];
        widen(levels, pairs);
        return dot_pairs(pairs[1], x + 2, dot_pairs(pairs[0], x, sum));
    }
    static Floats load_scales(const std::byte* scales) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
    }
    static Floats multiply_add(Integers products, Floats scales, float scale, Floats sum) {
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), _mm256_mul_ps(scales, _mm256_set1_ps(scale)), sum);
    }
    static Floats load(const float* sums) { return _mm256_loadu_ps(sums); }
    static void store(Floats sums, float* to) { _mm256_storeu_ps(to, sums); }

  private:
    /// Bytes -> the pairs of even ones, the pairs of odd ones.
    static void widen(Quads levels, Quads (&pairs)[2]) {
        pairs[0] = _mm256_and_si256(levels, _mm256_set1_epi16(0xff));
        pairs[1] = _mm256_srli_epi16(levels, 8);
    }
    /// In assembly, since GCC 12 first makes all products of a tile, and then lacks registers.
    static Integers dot_pairs(Quads pairs, const std::int16_t* x, Integers sum) {
        std::int32_t pair;
        std::memcpy(&pair, x, sizeof(pair));
        Integers products;
        asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
            : "+x"(sum), "=x"(products)
            : "x"(pairs), "x"(_mm256_set1_epi32(pair)));
        return sum;
    }

    static __m256i levels() {
        return _mm256_broadcastsi128_si256(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(unsigned_q4_levels.data())));
    }
    static __m256i load(const std::byte* codes) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)); }
};
#endif

}  // namespace mistral::cpu

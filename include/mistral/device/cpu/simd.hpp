#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/cpu/instruction_set.hpp>
#include <mistral/scalar/scalar.hpp>

#include <xsimd/xsimd.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

/// The primitives that depend on the instruction set, for every set that xsimd has. The set stands as `Architecture` in
/// the type of every kernel, so that kernels compiled for several of them live in one program.
namespace mistral::cpu {

template <class T, class Architecture>
using Batch = xsimd::batch<T, typename VectorsOf<Architecture>::type>;

/// Elements of T in one vector register.
template <class T, class Architecture>
inline constexpr Index lanes = static_cast<Index>(Batch<T, Architecture>::size);

/// `n`, rounded up to whole vectors.
template <class T, class Architecture>
[[nodiscard]] constexpr Index padded(Index n) {
    return round_up(n, lanes<T, Architecture>);
}

/// The sum of all lanes (`hadd` until xsimd 9, `reduce_add` since).
template <class B>
[[nodiscard]] auto sum(const B& batch) {
    if constexpr (requires { reduce_add(batch); })
        return reduce_add(batch);
    else
        return hadd(batch);
}

/// The sums of all lanes of each of several vectors, the same as if it were alone.
template <class T, class Architecture>
struct LaneSums {
    template <std::size_t count>
    static std::array<T, count> of(const std::array<Batch<T, Architecture>, count>& batches) {
        std::array<T, count> all;
        for (std::size_t i = 0; i < count; ++i) all[i] = sum(batches[i]);
        return all;
    }
};

#if defined(__AVX2__) && defined(__FMA__)
/// By halves of halves: 0 + 2 and 1 + 3 of each four lanes, then the fours.
template <>
struct LaneSums<float, xsimd::fma3<xsimd::avx2>> {
    using Vector = Batch<float, xsimd::fma3<xsimd::avx2>>;

    static std::array<float, 4> of(const std::array<Vector, 4>& batches) {
        const auto& [a, b, c, d] = batches;
        const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        const __m256 fours = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
        std::array<float, 4> all;
        _mm_storeu_ps(all.data(), _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
        return all;
    }
    static std::array<float, 1> of(const std::array<Vector, 1>& batch) {
        return {of(std::array<Vector, 4>{batch[0], batch[0], batch[0], batch[0]})[0]};
    }
};
#endif

#if defined(__AVX512BW__) && defined(__AVX512DQ__)
/// By halves of halves: 0 + 2 and 1 + 3 of each four lanes, then the fours.
template <class Architecture>
requires std::derived_from<typename VectorsOf<Architecture>::type, xsimd::avx512bw>
struct LaneSums<float, Architecture> {
    using Vector = Batch<float, Architecture>;

    static std::array<float, 4> of(const std::array<Vector, 4>& batches) {
        const auto& [a, b, c, d] = batches;
        const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        const __m512 fours = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
        const __m256 twos = _mm256_add_ps(_mm512_castps512_ps256(fours), _mm512_extractf32x8_ps(fours, 1));
        std::array<float, 4> all;
        _mm_storeu_ps(all.data(), _mm_add_ps(_mm256_castps256_ps128(twos), _mm256_extractf128_ps(twos, 1)));
        return all;
    }
    static std::array<float, 1> of(const std::array<Vector, 1>& batch) {
        return {of(std::array<Vector, 4>{batch[0], batch[0], batch[0], batch[0]})[0]};
    }
};
#endif

/// The bits of 32-bit integers as floats (the template argument is the batch until xsimd 9, the element since).
template <class Architecture>
[[nodiscard]] Batch<float, Architecture> as_float(const Batch<std::uint32_t, Architecture>& bits) {
    if constexpr (std::same_as<decltype(xsimd::bitwise_cast<float>(bits)), float>)
        return xsimd::bitwise_cast<Batch<float, Architecture>>(bits);
    else
        return xsimd::bitwise_cast<float>(bits);
}

/// e^x, in double precision by the standard library: exact to the last digit, as befits attention's reference, and free
/// of xsimd's conversion of x to an integer, which infinities do not survive.
template <class T, class Architecture>
[[nodiscard]] xsimd::batch<T, Architecture> exponential(const xsimd::batch<T, Architecture>& x) {
    if constexpr (std::same_as<T, double>) {
        std::array<double, static_cast<std::size_t>(lanes<T, Architecture>)> values;
        x.store_unaligned(values.data());
        for (double& value : values) value = std::exp(value);
        return Batch<T, Architecture>::load_unaligned(values.data());
    } else {
        return xsimd::exp(x);
    }
}

template <class Body, std::size_t... i>
[[gnu::always_inline, gnu::flatten]] constexpr void unroll(Body& body, std::index_sequence<i...>) {
    (body(std::integral_constant<std::size_t, i>{}), ...);
}

/// Calls body(i) for i in 0 … count - 1, each a constant: what a register tile needs to stay in registers, which loops
/// give at the highest level of optimisation only. The bodies are part of the caller whatever the compiler thinks of
/// their size: a sum whose address a call takes is no register.
template <std::size_t count, class Body>
[[gnu::always_inline]] constexpr void unroll(Body&& body) {
    unroll(body, std::make_index_sequence<count>{});
}

/// Calls body(count, token) for tiles of `most` tokens from `token` on, and one of those that are left before `last`;
/// count is a constant.
template <Index most, class Body>
void for_each_tile(Index token, Index last, Body&& body) {
    for (; token + most <= last; token += most) body(std::integral_constant<Index, most>{}, token);
    if constexpr (most > 1)
        if (token < last) for_each_tile<most - 1>(token, last, body);
}

/// Calls body(count) for so many tiles, of which the first `large` have `most` tokens and the others one fewer; count
/// is a constant.
template <int most, class Body>
void for_each_even_tile(Index tiles, Index large, Body&& body) {
    for (Index i = 0; i < large; ++i) body(std::integral_constant<int, most>{});
    if constexpr (most > 1)
        for (Index i = large; i < tiles; ++i) body(std::integral_constant<int, most - 1>{});
}

/// Calls body(most, large) for so many tiles, of which the first `large` have `most` tokens and the others one fewer,
/// of the largest `most` that leaves none of them empty. `most` is a constant.
template <int most, class Body>
void with_even_tiles(Index tokens, Index tiles, const Body& body) {
    if constexpr (most > 1)
        if (tokens <= (most - 1) * tiles) return with_even_tiles<most - 1>(tokens, tiles, body);
    body(std::integral_constant<int, most>{}, tokens - (most - 1) * tiles);
}

/// How consecutive weights of type S are multiplied with activations. One step loads `step` weights as an operand of
/// `parts` vectors, whose lanes hold them in an order of the format's choice: `pack` brings the activations that they
/// are to be multiplied with into the same order, as elements of type Packed.
template <class S, class Architecture>
struct WeightLanes {
    using Packed = S;
    using Operand = std::array<Batch<S, Architecture>, 1>;
    static constexpr Index parts = 1;
    static constexpr Index step = lanes<S, Architecture>;

    static Operand load(const S* weights) { return {Batch<S, Architecture>::load_unaligned(weights)}; }
    static Operand load_packed(const S* x) { return load(x); }
};

/// sum + weights * x, for the vectors of one step.
template <class Vector, std::size_t parts>
[[nodiscard]] Vector multiply_add(const std::array<Vector, parts>& weights, const std::array<Vector, parts>& x,
                                  Vector sum) {
    for (std::size_t p = 0; p < parts; ++p) sum = xsimd::fma(weights[p], x[p], sum);
    return sum;
}

// In assembly, since GCC 12 otherwise loads what stands in a register once more for every use.
#if defined(__AVX2__) && defined(__FMA__)
template <std::size_t parts>
[[nodiscard]] Batch<float, xsimd::fma3<xsimd::avx2>> multiply_add(
    const std::array<Batch<float, xsimd::fma3<xsimd::avx2>>, parts>& weights,
    const std::array<Batch<float, xsimd::fma3<xsimd::avx2>>, parts>& x, Batch<float, xsimd::fma3<xsimd::avx2>> sum) {
    __m256 s = sum;
    for (std::size_t p = 0; p < parts; ++p)
        asm("vfmadd231ps %2, %1, %0" : "+x"(s) : "x"(__m256(weights[p])), "x"(__m256(x[p])));
    return s;
}
#endif
#if defined(__AVX512F__)
template <std::derived_from<xsimd::avx512f> Architecture, std::size_t parts>
[[nodiscard]] xsimd::batch<float, Architecture> multiply_add(
    const std::array<xsimd::batch<float, Architecture>, parts>& weights,
    const std::array<xsimd::batch<float, Architecture>, parts>& x, xsimd::batch<float, Architecture> sum) {
    __m512 s = sum;
    for (std::size_t p = 0; p < parts; ++p)
        asm("vfmadd231ps %2, %1, %0" : "+v"(s) : "v"(__m512(weights[p])), "v"(__m512(x[p])));
    return s;
}
#endif

/// Formats of 16 bits: a register of 32-bit lanes holds the weights 2 i in the lanes' lower and 2 i + 1 in their upper
/// halves, so that neither a shuffle nor a widening load is needed: first come the even weights, then the odd ones.
template <class Architecture>
struct PairedLanes {
    using Packed = float;
    static constexpr Index parts = 2;
    static constexpr Index step = 2 * lanes<float, Architecture>;
    using Operand = std::array<Batch<float, Architecture>, 2>;
    using Bits = Batch<std::uint32_t, Architecture>;

    static Operand load_packed(const float* x) {
        return {Batch<float, Architecture>::load_unaligned(x),
                Batch<float, Architecture>::load_unaligned(x + lanes<float, Architecture>)};
    }

    static Bits bits(const void* weights) { return Bits::load_unaligned(static_cast<const std::uint32_t*>(weights)); }
};

template <class Architecture>
struct WeightLanes<bfloat16, Architecture> : PairedLanes<Architecture> {
    using Bits = typename PairedLanes<Architecture>::Bits;

    static typename PairedLanes<Architecture>::Operand load(const bfloat16* weights) {
        const Bits pair = PairedLanes<Architecture>::bits(weights);
        return {as_float<Architecture>(pair << 16), as_float<Architecture>(pair & Bits(0xffff0000u))};
    }
};

template <class Architecture>
struct WeightLanes<half, Architecture> : PairedLanes<Architecture> {
    using Bits = typename PairedLanes<Architecture>::Bits;

    static typename PairedLanes<Architecture>::Operand load(const half* weights) {
        const Bits pair = PairedLanes<Architecture>::bits(weights);
        return {widen(pair & Bits(0xffffu)), widen(pair >> 16)};
    }

  private:
    /// binary16 in the lower half of each lane -> binary32, exact for every value. Shifted into place, exponent and
    /// fraction are those of a binary32 whose exponent is 112 too low; a multiplication mends that, subnormals
    /// included.
    static Batch<float, Architecture> widen(const Bits& narrow) {
        const Bits magnitude = (narrow & Bits(0x7fffu)) << 13;
        const Bits sign = (narrow & Bits(0x8000u)) << 16;
        const auto finite = as_float<Architecture>(magnitude) * Batch<float, Architecture>(0x1p112f);
        const auto infinite_or_nan = as_float<Architecture>(magnitude | Bits(0x7f800000u));
        const auto value =
            xsimd::select(as_float<Architecture>(magnitude) >= Batch<float, Architecture>(0x1p-112f * 0x1p+16f),
                          infinite_or_nan, finite);
        return value | as_float<Architecture>(sign);
    }
};

#if defined(__F16C__)
/// Where one instruction widens a vector of them, halves stay in their order.
template <class Architecture>
requires(lanes<float, Architecture> >= 8) struct WeightLanes<half, Architecture> {
    using Packed = float;
    using Operand = std::array<Batch<float, Architecture>, 1>;
    static constexpr Index parts = 1;
    static constexpr Index step = lanes<float, Architecture>;

    static Operand load_packed(const float* x) { return {Batch<float, Architecture>::load_unaligned(x)}; }

    static Operand load(const half* weights) {
#if defined(__AVX512F__)
        if constexpr (step == 16)
            return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights)))};
        else
#endif
            return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights)))};
    }
};
#endif

/// `n`, rounded up to whole steps of S.
template <class S, class Architecture>
[[nodiscard]] constexpr Index padded_to_steps(Index n) {
    return round_up(n, WeightLanes<S, Architecture>::step);
}

/// x [n] -> packed [padded_to_steps(n)]: the order in which WeightLanes<S> holds weights, zeros behind the end.
template <class S, class Architecture, class T>
void pack(const T* x, Index n, T* packed) {
    using Lanes = WeightLanes<S, Architecture>;
    constexpr Index part = Lanes::step / Lanes::parts;
    for (; n >= Lanes::step; n -= Lanes::step, x += Lanes::step, packed += Lanes::step)
        for (Index i = 0; i < part; ++i)
            for (Index p = 0; p < Lanes::parts; ++p) packed[p * part + i] = x[i * Lanes::parts + p];
    if (n == 0) return;
    std::fill_n(packed, Lanes::step, T(0));
    for (Index i = 0; i < n; ++i) packed[i % Lanes::parts * part + i / Lanes::parts] = x[i];
}

/// The reverse: packed [padded_to_steps(n)] -> x [n].
template <class S, class Architecture, class T>
void unpack(const T* packed, Index n, T* x) {
    using Lanes = WeightLanes<S, Architecture>;
    constexpr Index part = Lanes::step / Lanes::parts;
    for (Index i = 0; i < n; ++i) {
        const Index within = i % Lanes::step;
        x[i] = packed[i - within + within % Lanes::parts * part + within / Lanes::parts];
    }
}

/// x [n] -> packed [padded_to_steps(n)]: widened to activations in the packed order, zeros behind the end.
template <class S, class Architecture>
void widen_packed(const S* x, Index n, Activation<S>* packed) {
    using Lanes = WeightLanes<S, Architecture>;
    constexpr Index part = Lanes::step / Lanes::parts;
    const auto store = [](const S* from, Activation<S>* to) {
        const auto vectors = Lanes::load(from);
        for (std::size_t p = 0; p < vectors.size(); ++p) vectors[p].store_unaligned(to + static_cast<Index>(p) * part);
    };
    for (; n >= Lanes::step; n -= Lanes::step, x += Lanes::step, packed += Lanes::step) store(x, packed);
    if (n == 0) return;
    std::array<S, static_cast<std::size_t>(Lanes::step)> last{};
    std::copy_n(x, n, last.begin());
    store(last.data(), packed);
}

}  // namespace mistral::cpu

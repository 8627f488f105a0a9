#pragma once

#include <mistral/base/host_matrix.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/avx512_dot.hpp>
#include <mistral/device/cpu/avx512_pairs.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>
#include <mistral/device/cpu/prefetch.hpp>
#include <mistral/device/cpu/quad_lanes.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/scalar/quantization.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>

/// Weights as tiles take them: two tiles [16 pairs of inputs, 16 outputs] of 32 outputs and the 32 inputs of a step,
/// one step after the other.
namespace mistral::cpu {

inline constexpr Index amx_outputs = 2 * amx_columns;
inline constexpr Index amx_inputs = 2 * amx_columns;

[[nodiscard]] inline Index amx_steps(const HostMatrix<bfloat16>& weights) {
    return divide_up(weights.cols(), amx_inputs);
}
template <QuantizedScalar Q>
[[nodiscard]] Index amx_steps(const PackedMatrix<Q>& weights) {
    return weights.groups() * (group_size / amx_inputs);
}

/// Where the steps first … last - 1 of the outputs from `output` on lie.
[[nodiscard]] inline MemoryPieces pieces_of(const HostMatrix<bfloat16>& weights, Index output, Index first,
                                            Index last) {
    constexpr Index size = sizeof(bfloat16);
    return {reinterpret_cast<const std::byte*>(weights.view.row(output) + first * amx_inputs),
            std::min(amx_outputs, weights.rows() - output), (last - first) * amx_inputs * size,
            weights.view.stride() * size};
}
template <QuantizedScalar Q>
[[nodiscard]] MemoryPieces pieces_of(const PackedMatrix<Q>& weights, Index output, Index first, Index last) {
    const Index step_bytes = PackedMatrix<Q>::group_bytes * amx_inputs / group_size;
    return {weights.panel(output / amx_outputs) + first * step_bytes, 1, (last - first) * step_bytes, 0};
}

/// A tile [16 outputs, 32 inputs] of rows, with zeros behind the last output and the last input.
inline void copy_tile(MatrixView<const bfloat16> weights, Index output, Index step, bfloat16* tile) {
    const Index inputs = std::min(amx_inputs, weights.cols() - step * amx_inputs);
    for (Index r = 0; r < amx_rows; ++r, tile += amx_inputs) {
        const bool exists = output + r < weights.rows();
        _mm512_store_si512(
            tile, exists ? load_pairs(weights.row(output + r) + step * amx_inputs, inputs) : _mm512_setzero_si512());
    }
}

/// The steps first … last - 1 of the outputs from `output` on, with zeros behind the last output and the last input.
inline void unpack_for_amx(const HostMatrix<bfloat16>& weights, Index output, Index first, Index last,
                           std::uint32_t* tiles) {
    const MatrixView<const bfloat16> view = weights.view;
    for (Index step = first; step < last; ++step)
        for (Index row = output; row < output + amx_outputs; row += amx_rows, tiles += amx_tile) {
            if (row + amx_rows <= view.rows() && (step + 1) * amx_inputs <= view.cols()) {
                transpose_pairs(view.row(row) + step * amx_inputs, view.stride(), tiles, 16);
                continue;
            }
            alignas(64) std::array<bfloat16, std::size_t{amx_rows * amx_inputs}> whole;
            copy_tile(view, row, step, whole.data());
            transpose_pairs(whole.data(), amx_inputs, tiles, 16);
        }
}

/// Sixteen lanes of quads of levels -> the weights they stand for, rounded to bfloat16: the pairs of the first two,
/// then those of the last two.
inline void widen_levels(__m512i levels, __m512 scales, std::uint32_t* pairs) {
    const auto weight = [=](__m512i lowest) { return _mm512_mul_ps(numbers_of_bytes<0>(lowest), scales); };
    static constexpr auto interleaved = [] {
        std::array<std::uint16_t, 32> words{};
        for (std::uint16_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 16);
        return words;
    }();
    const __m512i order = _mm512_loadu_si512(interleaved.data());
    const auto store = [=](__m512i even, __m512i odd, std::uint32_t* to) {
        const auto halves = std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(weight(odd), weight(even)));
        _mm512_store_si512(to, _mm512_permutexvar_epi16(order, halves));
    };
    store(levels, _mm512_srli_epi32(levels, 8), pairs);
    store(_mm512_srli_epi32(levels, 16), _mm512_srli_epi32(levels, 24), pairs + 16);
}

template <QuantizedScalar Q>
void unpack_for_amx(const PackedMatrix<Q>& weights, Index output, Index first, Index last, std::uint32_t* tiles) {
    using Matrix = PackedMatrix<Q>;
    using Lanes = QuadLanes<Avx512Dot>;
    static_assert(Matrix::panel_rows == amx_outputs && Lanes::vectors == 2);
    constexpr Index steps_per_group = group_size / amx_inputs;
    assert(first % steps_per_group == 0 && last % steps_per_group == 0);
    const std::byte* group = weights.panel(output / amx_outputs) + first / steps_per_group * Matrix::group_bytes;
    for (; first < last; first += steps_per_group, group += Matrix::group_bytes) {
        __m512 scales[2];
        for (std::size_t v = 0; v < 2; ++v)
            scales[v] = _mm512_mul_ps(Lanes::load_scales(group + 32 * v), _mm512_set1_ps(1 / level_unit));
        const std::byte* codes = group + Matrix::scale_bytes;
        for (Index quad = 0; quad < group_size / Matrix::quad; quad += 2, codes += Matrix::pair_bytes) {
            __m512i levels[2][2];
            Lanes::load_pair<Q>(codes, levels);
            for (Index q = 0; q < 2; ++q)
                for (Index v = 0; v < 2; ++v)
                    widen_levels(levels[q][v], scales[v],
                                 tiles + (quad + q) / 8 * 2 * amx_tile + v * amx_tile + (quad + q) % 8 * 32);
        }
        tiles += steps_per_group * 2 * amx_tile;
    }
}

}  // namespace mistral::cpu
#endif

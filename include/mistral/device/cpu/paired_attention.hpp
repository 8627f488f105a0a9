#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/base/window.hpp>
#include <mistral/device/cpu/attention_tile.hpp>
#include <mistral/device/cpu/avx512_dot.hpp>
#include <mistral/device/cpu/key_value_pairs.hpp>
#include <mistral/device/cpu/partial_attention.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>

namespace mistral::cpu {

/// 2^x, right to 3e-6, and 1 for 0: x is split into an integer, which goes to the exponent, and a fraction of at most
/// one half, for which a polynomial fitted to the least relative error stands.
[[nodiscard]] inline __m512 exponential_of_two(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT);
    const __m512 rest = _mm512_sub_ps(x, whole);
    __m512 sum = _mm512_set1_ps(0.009582852944731712f);
    for (const float coefficient : {0.055906426161527634f, 0.24024099111557007f, 0.6931241750717163f, 1.0f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficient));
    return _mm512_scalef_ps(sum, whole);
}

/// What attention over keys and values in bfloat16, or in Q8, whose integers bfloat16 can hold, has in common for
/// Avx512Dot and Amx: all but the products. Queries and weights are rounded to bfloat16, sums and maxima are binary32;
/// the scales of Q8 are multiplied with scores and weights. A block's values are rearranged into pairs, and so are
/// its keys where they do not serve as they lie.
template <class C>
class PairedAttention {
  public:
    static constexpr Index tokens_per_tile = 24;

    /// head_dim, padded to whole cache lines of the cache's elements.
    [[nodiscard]] static Index width(const Shape& shape) { return Pairs::width(shape); }

    /// Scales queries [tokens, query_heads * head_dim], of which the heads of the tile's kv_head are taken, so that
    /// scores are powers of two.
    void start(MatrixView<const float> queries) {
        const Index count = place_.count();
        const float scale =
            static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(place_.shape.head_dim)));
        float* scaled = pairs_.free_memory();
        for (Index q = 0; q < count; ++q) {
            const float* query = queries.row(place_.token(q)) + place_.column(q);
            std::transform(query, query + place_.shape.head_dim, scaled, [=](float x) { return x * scale; });
            round_to_bfloat16(scaled, place_.shape.head_dim, queries_.row(q));
            std::fill(queries_.row(q) + place_.shape.head_dim, queries_.row(q) + width_, bfloat16(0));
        }
        std::fill_n(queries_.data() + count * width_, (count_ - count) * width_, bfloat16(0));
    }

    static float power(float x) { return std::exp2(x); }

    void finish(PartialAttention<float> result, MatrixView<float> out) {
        for (Index q = 0; q < place_.count(); ++q)
            std::transform(result.sums(q), result.sums(q) + place_.shape.head_dim,
                           out.row(place_.token(q)) + place_.column(q),
                           [total = result.total(q)](float sum) { return sum / total; });
    }

  protected:
    using Pairs = KeyValuePairs<C>;
    using Positions = typename Pairs::Positions;
    using Vector = Batch<float, Avx512Dot>;

    static constexpr bool has_scales = Pairs::has_scales;
    static constexpr Index vector = 16;
    static constexpr std::size_t vectors = keys_per_block / vector;

    /// Elements of scratch memory for so many queries, a whole number of cache lines.
    [[nodiscard]] static Index scratch_size(const Shape& shape, Index queries) {
        return Pairs::scratch_size(shape) + queries * (width(shape) / 2 + vector);
    }

    /// Takes scratch memory for `most_queries`, of which `queries` are computed: those of `place`, and zeros behind.
    PairedAttention(float* scratch, const HeadQueries& place, Index most_queries, Index queries)
        : place_(place),
          window_{place.shape.window},
          width_(width(place.shape)),
          count_(queries),
          pairs_(scratch, place),
          queries_(reinterpret_cast<bfloat16*>(scratch + Pairs::scratch_size(place.shape)), most_queries, width_),
          totals_(scratch + Pairs::scratch_size(place.shape) + most_queries * width_ / 2, most_queries, vector) {}

    /// Calls attend(positions) for those blocks of the positions first … last - 1 that the queries see. `first` begins
    /// a block.
    template <class Attend>
    void for_blocks(std::span<const KeyValueRun<C>> runs, Index first, Index last, PartialAttention<float> result,
                    Attend attend) {
        result.clear(count_);
        std::fill_n(totals_.data(), count_ * vector, 0.0f);
        const Index visible = std::max(first, window_.first_visible(place_.position));
        const Index end = std::min(last, place_.position + place_.tokens);
        for (Index block = visible / keys_per_block * keys_per_block; block < end; block += keys_per_block)
            attend(Positions{runs, block, std::max(block, visible), std::min(end, block + keys_per_block)});
        for (Index q = 0; q < count_; ++q)
            result.total(q) = LaneSums<float, Avx512Dot>::of(std::array{Vector::load_unaligned(totals_.row(q))})[0];
    }

    /// Which keys of the block the query row q sees.
    [[nodiscard]] std::uint64_t mask(Index q, Index block) const {
        const Index token = place_.position + place_.token(q);
        const Index from = std::clamp<Index>(window_.first_visible(token) - block, 0, keys_per_block);
        const Index to = std::clamp<Index>(token + 1 - block, 0, keys_per_block);
        const auto below = [](Index n) { return n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1; };
        return below(to) & ~below(from);
    }

    /// Scores -> weights 2^(score - maximum) with the maximum of all scores so far, zero where the mask is. Returns
    /// what the sums so far are to be multiplied with.
    float exponentiate(Index q, const Vector (&scores)[vectors], std::uint64_t mask, PartialAttention<float> result,
                       bfloat16* weights) {
        constexpr float lowest = std::numeric_limits<float>::lowest();
        __m512 s[vectors];
        unroll<vectors>([&](auto v) {
            const Vector score =
                has_scales ? scores[v] * Vector::load_aligned(pairs_.key_side().scales.data() + vector * v) : scores[v];
            s[v] = _mm512_mask_mov_ps(_mm512_set1_ps(lowest), static_cast<__mmask16>(mask >> (16 * v)), score);
        });
        const float maximum =
            std::max(result.maximum(q),
                     _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]))));
        unroll<vectors>([&](auto v) {
            s[v] = _mm512_maskz_mov_ps(static_cast<__mmask16>(mask >> (16 * v)),
                                       exponential_of_two(_mm512_sub_ps(s[v], _mm512_set1_ps(maximum))));
        });
        const __m512 rescale = exponential_of_two(_mm512_set1_ps(result.maximum(q) - maximum));
        result.maximum(q) = maximum;
        Vector total = _mm512_mul_ps(_mm512_load_ps(totals_.row(q)), rescale);
        const __m512i ones = _mm512_set1_epi16(std::bit_cast<std::int16_t>(bfloat16(1.0f)));
        unroll<vectors / 2>([&](auto v) {
            const auto rounded = std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(s[2 * v + 1], s[2 * v]));
            total = multiply_add(rounded, ones, total);
            _mm512_store_si512(weights + 32 * v, has_scales ? scaled(s, 2 * v) : rounded);
        });
        _mm512_store_ps(totals_.row(q), total);
        return _mm512_cvtss_f32(rescale);
    }

    HeadQueries place_;
    Window window_;
    Index width_;
    Index count_;  // of queries that are computed
    Pairs pairs_;
    MatrixView<bfloat16> queries_;  // [queries, width]
    MatrixView<float> totals_;      // [queries, vector]: sums of 2^(score - maximum) by lane

  private:
    /// The weights s[v] and s[v + 1] of keys, multiplied with the scales of their values and rounded.
    __m512i scaled(const __m512 (&s)[vectors], std::size_t v) const {
        const auto scale = [&](std::size_t i) { return _mm512_load_ps(pairs_.value_side().scales.data() + 16 * i); };
        return std::bit_cast<__m512i>(
            _mm512_cvtne2ps_pbh(_mm512_mul_ps(s[v + 1], scale(v + 1)), _mm512_mul_ps(s[v], scale(v))));
    }
};

}  // namespace mistral::cpu
#endif

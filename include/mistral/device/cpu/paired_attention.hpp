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
/// the scales of Q8 are multiplied with scores and weights. Values are rearranged into pairs, and so are keys where
/// they do not serve as they lie. The softmax goes on by `blocks` at once.
template <class C, Index blocks>
class PairedAttention {
  public:
    static constexpr Index keys_at_once = blocks * keys_per_block;

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
    using Pairs = KeyValuePairs<C, blocks>;
    using Positions = typename Pairs::Positions;
    using Vector = Batch<float, Avx512Dot>;

    static constexpr bool has_scales = Pairs::has_scales;
    static constexpr Index vector = 16;
    static constexpr std::size_t vectors = keys_per_block / vector;
    static constexpr std::uint64_t all_keys = ~std::uint64_t{0};

    /// Elements of scratch memory for so many queries, a whole number of cache lines.
    [[nodiscard]] static Index scratch_size(const Shape& shape, Index queries) {
        return Pairs::scratch_size(shape) + queries * (width(shape) / 2 + vector);
    }

    /// Computes so many queries: those of `place`, and zeros behind.
    PairedAttention(float* scratch, const HeadQueries& place, Index queries)
        : place_(place),
          window_{place.shape.window},
          width_(width(place.shape)),
          count_(queries),
          pairs_(scratch, place),
          queries_(reinterpret_cast<bfloat16*>(scratch + Pairs::scratch_size(place.shape)), queries, width_),
          totals_(scratch + Pairs::scratch_size(place.shape) + queries * width_ / 2, queries, vector) {}

    /// Calls attend(positions), of keys_at_once from a multiple of it on, for those of the positions first … last - 1
    /// that the queries see. `first` is such a multiple.
    template <class Attend>
    void for_blocks(std::span<const KeyValueRun<C>> runs, Index first, Index last, PartialAttention<float> result,
                    Attend attend) {
        result.clear(count_);
        std::fill_n(totals_.data(), count_ * vector, 0.0f);
        const Index visible = std::max(first, window_.first_visible(place_.position));
        const Index end = std::min(last, place_.position + place_.tokens);
        for (Index block = visible / keys_at_once * keys_at_once; block < end; block += keys_at_once)
            attend(Positions{runs, block, std::max(block, visible), std::min(end, block + keys_at_once)});
        for (Index q = 0; q < count_; ++q)
            result.total(q) = LaneSums<float, Avx512Dot>::of(std::array{Vector::load_unaligned(totals_.row(q))})[0];
    }

    /// The positions that the query row q sees.
    struct Visible {
        Index first;
        Index last;  ///< this one not

        [[nodiscard]] bool covers(Index from, Index to) const { return first <= from && to <= last; }
        /// Which of a block's keys.
        [[nodiscard]] std::uint64_t mask(Index block) const {
            const auto below = [block](Index position) {
                const Index n = std::clamp<Index>(position - block, 0, keys_per_block);
                return n == keys_per_block ? all_keys : (std::uint64_t{1} << n) - 1;
            };
            return below(last) & ~below(first);
        }
    };
    [[nodiscard]] Visible visible(Index q) const {
        const Index token = place_.position + place_.token(q);
        return {window_.first_visible(token), token + 1};
    }

    /// Scores of a block, multiplied with the scales of its keys, with the lowest number where the mask is not.
    void hide_unseen(__m512 (&scores)[vectors], std::uint64_t mask, Index slot) const {
        const __m512 lowest = _mm512_set1_ps(std::numeric_limits<float>::lowest());
        unroll<vectors>([&](auto v) {
            const __m512 score = has_scales ? _mm512_mul_ps(scores[v], scale(pairs_.key_side(), slot, v)) : scores[v];
            scores[v] = _mm512_mask_mov_ps(lowest, lanes(mask, v), score);
        });
    }
    static __m512 highest(const __m512 (&scores)[vectors]) {
        return _mm512_max_ps(_mm512_max_ps(scores[0], scores[1]), _mm512_max_ps(scores[2], scores[3]));
    }

    /// Sums of weights by lane: two, as each takes long to grow.
    using Totals = std::array<Vector, 2>;

    /// Makes the highest of a query's scores the maximum of all so far, and calls weigh_all(maximum, totals), which
    /// adds up their weights. Returns what the sums so far are to be multiplied with.
    template <class WeighAll>
    float exponentiate(Index q, __m512 scores, PartialAttention<float> result, WeighAll weigh_all) {
        const float before = result.maximum(q), maximum = std::max(before, _mm512_reduce_max_ps(scores));
        result.maximum(q) = maximum;
        const __m512 rescale = exponential_of_two(_mm512_set1_ps(before - maximum));
        Totals totals{Vector::load_aligned(totals_.row(q)) * Vector(rescale), Vector(0.0f)};
        weigh_all(_mm512_set1_ps(maximum), totals);
        (totals[0] + totals[1]).store_aligned(totals_.row(q));
        return _mm512_cvtss_f32(rescale);
    }

    /// Masked scores of a block -> weights 2^(score - maximum), zero where the mask is not. Adds them to the totals.
    void weigh(__m512 (&scores)[vectors], std::uint64_t mask, Index slot, __m512 maximum, Totals& totals,
               bfloat16* weights) const {
        unroll<vectors>([&](auto v) {
            scores[v] = _mm512_maskz_mov_ps(lanes(mask, v), exponential_of_two(_mm512_sub_ps(scores[v], maximum)));
        });
        const __m512i ones = _mm512_set1_epi16(std::bit_cast<std::int16_t>(bfloat16(1.0f)));
        unroll<vectors / 2>([&](auto v) {
            const auto rounded = std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(scores[2 * v + 1], scores[2 * v]));
            totals[v] = multiply_add(rounded, ones, totals[v]);
            _mm512_store_si512(weights + 32 * v, has_scales ? scaled(scores, 2 * v, slot) : rounded);
        });
    }

    HeadQueries place_;
    Window window_;
    Index width_;
    Index count_;  // of queries that are computed
    Pairs pairs_;
    MatrixView<bfloat16> queries_;  // [queries, width]
    MatrixView<float> totals_;      // [queries, vector]: sums of 2^(score - maximum) by lane

  private:
    /// The bits of a block's mask for one of its vectors.
    static __mmask16 lanes(std::uint64_t mask, std::size_t v) { return static_cast<__mmask16>(mask >> (16 * v)); }

    static __m512 scale(const typename Pairs::Side& side, Index slot, std::size_t v) {
        return _mm512_load_ps(side.scales.data() + slot * keys_per_block + static_cast<Index>(v) * vector);
    }

    /// The weights v and v + 1 of keys, multiplied with the scales of their values and rounded.
    __m512i scaled(const __m512 (&weights)[vectors], std::size_t v, Index slot) const {
        const auto product = [&](std::size_t i) {
            return _mm512_mul_ps(weights[i], scale(pairs_.value_side(), slot, i));
        };
        return std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(product(v + 1), product(v)));
    }
};

}  // namespace mistral::cpu
#endif

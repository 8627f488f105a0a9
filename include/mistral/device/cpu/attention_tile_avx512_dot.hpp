#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/amx_product.hpp>
#include <mistral/device/cpu/attention_tile.hpp>
#include <mistral/device/cpu/avx512_dot.hpp>
#include <mistral/device/cpu/avx512_pairs.hpp>
#include <mistral/device/cpu/key_value_pairs.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
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

/// Attention over keys and values in bfloat16, or in Q8, whose integers bfloat16 can hold, their scales being
/// multiplied with scores and weights. Queries and weights are rounded to bfloat16, sums and maxima are binary32. Keys
/// and values are rearranged into pairs, so that both products are dot products of a broadcast pair with sixteen
/// others: whole blocks at once for many queries, parts of one on the way for few.
template <class C>
requires std::same_as<C, bfloat16> || std::same_as<C, Q8>
class AttentionTile<C, Avx512Dot> {
  public:
    static constexpr Index tokens_per_tile = 24;

    [[nodiscard]] static Index width(const Shape& shape) { return Pairs::width(shape); }

    /// Rows that a partial result needs for so many queries: few are computed as if they were four or eight.
    [[nodiscard]] static Index padded(Index queries) {
        if (amx_is_available()) return queries <= amx_rows ? queries : round_up(queries, amx_rows);
        return queries <= 4 ? 4 : std::max(queries, Index{most_few});
    }

    /// Elements of scratch memory that a worker needs, a whole number of cache lines.
    [[nodiscard]] static Index scratch_size(const Shape& shape) {
        const Index queries = padded(tokens_per_tile * shape.group());
        return Pairs::scratch_size(shape) + queries * (width(shape) / 2 + vector + keys_per_block * 3 / 2);
    }

    AttentionTile(float* scratch, const HeadQueries& place)
        : place_(place), window_{place.shape.window}, width_(width(place.shape)), pairs_(scratch, place) {
        scratch += Pairs::scratch_size(place.shape);
        const Index queries = padded(tokens_per_tile * place.shape.group());
        const auto take = [&scratch]<class T>(T*, Index rows, Index cols) {
            const MatrixView<T> taken(reinterpret_cast<T*>(scratch), rows, cols);
            scratch += rows * cols * static_cast<Index>(sizeof(T)) / static_cast<Index>(sizeof(float));
            return taken;
        };
        queries_ = take(queries_.data(), queries, width_);
        totals_ = take(totals_.data(), queries, vector);
        scores_ = take(scores_.data(), queries, keys_per_block);
        weights_ = take(weights_.data(), queries, keys_per_block);
    }

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
        std::fill_n(queries_.data() + count * width_, (padded(count) - count) * width_, bfloat16(0));
    }

    void run(std::span<const KeyValueRun<C>> runs, Index first, Index last, PartialAttention<float> result) {
        const Index queries = padded(place_.count());
        result.clear(queries);
        std::fill_n(totals_.data(), queries * vector, 0.0f);
        const Index visible = std::max(first, window_.first_visible(place_.position));
        const Index end = std::min(last, place_.position + place_.tokens);
        for (Index block = visible / keys_per_block * keys_per_block; block < end; block += keys_per_block) {
            const Positions rows{runs, block, std::max(block, visible), std::min(end, block + keys_per_block)};
            if (amx_is_available())
                attend_by_amx(rows, queries, result);
            else if (queries == 4)
                attend_few<4>(rows, result);
            else if (queries == most_few)
                attend_few<most_few>(rows, result);
            else
                attend_many(rows, queries, result);
        }
        for (Index q = 0; q < queries; ++q)
            result.total(q) = LaneSums<float, Avx512Dot>::of(std::array{Vector::load_unaligned(totals_.row(q))})[0];
    }

    static float power(float x) { return std::exp2(x); }

    void finish(PartialAttention<float> result, MatrixView<float> out) {
        for (Index q = 0; q < place_.count(); ++q)
            std::transform(result.sums(q), result.sums(q) + place_.shape.head_dim,
                           out.row(place_.token(q)) + place_.column(q),
                           [total = result.total(q)](float sum) { return sum / total; });
    }

  private:
    using Pairs = KeyValuePairs<C>;
    using Positions = typename Pairs::Positions;
    using Vector = Batch<float, Avx512Dot>;
    using Element = CachedElement<C>;

    static constexpr bool has_scales = Pairs::has_scales;
    static constexpr Index vector = 16;
    static constexpr int rows_together = 6;  // of queries: with 4 vectors of keys or columns, 24 sums in registers
    static constexpr std::size_t vectors = 4;
    static constexpr int most_few = 8;  // queries, to which an arrangement is not worth writing down

    template <int rows>
    using Weights = std::array<std::array<bfloat16, keys_per_block>, static_cast<std::size_t>(rows)>;
    template <int rows>
    using Factors = std::array<float, static_cast<std::size_t>(rows)>;

    /// Rearranges the block's keys and values, and goes through the queries.
    void attend_many(const Positions& rows, Index queries, PartialAttention<float> result) {
        pairs_.find_keys(rows);
        pairs_.template pair_keys<keys_per_block>(0, nullptr);
        pairs_.find_values(rows);
        pairs_.pair_values(nullptr);
        rows_from<rows_together>(0, queries, rows.block, result);
    }

    /// The same by tiles.
    void attend_by_amx(const Positions& rows, Index queries, PartialAttention<float> result) {
        pairs_.find_keys(rows);
        pairs_.template pair_keys<keys_per_block>(0, pairs_.key_side().next);
        pairs_.find_values(rows);
        pairs_.pair_values(pairs_.value_side().next);
        const AmxRegisters registers(std::min(amx_rows, queries));
        for_tiles(queries, [&](Index q, auto tiles) {
            for (Index key = 0; key < keys_per_block; key += 32)
                multiply_tiles<tiles>({queries_.row(q), width_, amx_rows * width_, 2 * amx_pairs},
                                      {pairs_.keys() + key, keys_per_block, 16, amx_pairs * keys_per_block},
                                      width_ / (2 * amx_pairs),
                                      {scores_.row(q) + key, keys_per_block, amx_rows * keys_per_block, 16}, false);
        });
        for (Index q = 0; q < place_.count(); ++q) {
            Vector row[vectors];
            unroll<vectors>([&](auto v) { row[v] = Vector::load_aligned(scores_.row(q) + vector * v); });
            const float rescale = exponentiate(q, row, mask(q, rows.block), result, weights_.row(q));
            if (rescale == 1) continue;
            float* sums = result.sums(q);
            for (Index i = 0; i < width_; i += vector)
                (Vector::load_aligned(sums + i) * Vector(rescale)).store_aligned(sums + i);
        }
        for_tiles(queries, [&](Index q, auto tiles) {
            for (Index column = 0; column < width_; column += 32)
                multiply_tiles<tiles>({weights_.row(q), keys_per_block, amx_rows * keys_per_block, 2 * amx_pairs},
                                      {pairs_.values().data() + column, width_, 16, amx_pairs * width_},
                                      keys_per_block / (2 * amx_pairs),
                                      {result.sums(q) + column, result.stride(), amx_rows * result.stride(), 16}, true);
        });
    }

    /// Calls body(query, tiles) for two tiles of queries at a time, and for the last alone where they are odd.
    template <class Body>
    static void for_tiles(Index queries, Body body) {
        Index q = 0;
        for (; q + amx_rows < queries; q += 2 * amx_rows) body(q, std::integral_constant<int, 2>{});
        if (q < queries) body(q, std::integral_constant<int, 1>{});
    }

    template <int rows>
    void rows_from(Index q, Index queries, Index block, PartialAttention<float> result) {
        for (; q + rows <= queries; q += rows) attend_rows<rows>(q, block, result);
        if constexpr (rows > 1)
            if (q < queries) rows_from<rows == 6 ? 4 : rows / 2>(q, queries, block, result);
    }

    template <int rows>
    void attend_rows(Index q, Index block, PartialAttention<float> result) {
        std::array<std::uint64_t, static_cast<std::size_t>(rows)> masks;
        for (int r = 0; r < rows; ++r) masks[static_cast<std::size_t>(r)] = mask(q + r, block);
        if (std::all_of(masks.begin(), masks.end(), [](std::uint64_t seen) { return seen == 0; })) return;
        Vector scores[rows][vectors];
        const std::byte* ahead = q == 0 ? pairs_.key_side().next : nullptr;
        multiply_keys<rows, vectors>(q, scores, 0, ahead);
        alignas(64) Weights<rows> weights;
        Factors<rows> rescale;
        for (std::size_t r = 0; r < rows; ++r)
            rescale[r] = exponentiate(q + static_cast<Index>(r), scores[r], masks[r], result, weights[r].data());
        ahead = q == 0 ? pairs_.value_side().next : nullptr;
        for_columns<vectors>([&](Index column, auto count) {
            add_columns<rows, count>(q, column, weights, rescale, result, ahead, [&](Index pair, __m512i* x) {
                const std::uint32_t* value = pairs_.values().row(pair) + column;
                unroll<count>([&](auto v) { x[v] = _mm512_load_si512(value + vector * v); });
            });
        });
    }

    /// The same for few queries, which begin at 0. Keys are rearranged for half a block at a time, values on the way.
    template <int rows>
    void attend_few(const Positions& block, PartialAttention<float> result) {
        pairs_.find_keys(block);
        Vector scores[rows][vectors];
        const std::byte* ahead = pairs_.key_side().next;
        for (std::size_t half = 0; half < 2; ++half) {
            pairs_.template pair_keys<keys_per_block / 2>(static_cast<Index>(half) * keys_per_block / 2, nullptr);
            multiply_keys<rows, vectors / 2>(0, scores, half * vectors / 2, ahead);
        }
        pairs_.find_values(block);
        const auto& values = pairs_.value_side().rows;
        alignas(64) Weights<rows> weights;
        Factors<rows> rescale;
        for (std::size_t r = 0; r < rows; ++r) {
            const auto q = static_cast<Index>(r);
            rescale[r] = exponentiate(q, scores[r], mask(q, block.block), result, weights[r].data());
        }
        ahead = pairs_.value_side().next;
        for_columns<rows == 4 ? vectors : vectors / 2>([&](Index column, auto count) {
            add_columns<rows, count>(0, column, weights, rescale, result, ahead, [&](Index pair, __m512i* x) {
                const Element* even = values.row(2 * pair) + column;
                const Element* odd = values.row(2 * pair + 1) + column;
                unroll<count / 2>([&](auto v) { interleave(even + 2 * vector * v, odd + 2 * vector * v, x + 2 * v); });
            });
        });
    }

    /// Calls body(column, number of vectors) for `most` vectors of columns at a time, and for the half of it where only
    /// so many are left.
    template <std::size_t most, class Body>
    void for_columns(Body body) const {
        constexpr Index columns = static_cast<Index>(most) * vector;
        Index column = 0;
        for (; column + columns <= width_; column += columns) body(column, std::integral_constant<std::size_t, most>{});
        if constexpr (most > 2)
            if (column < width_) body(column, std::integral_constant<std::size_t, most / 2>{});
    }

    /// Which keys of the block the query row q sees.
    [[nodiscard]] std::uint64_t mask(Index q, Index block) const {
        const Index token = place_.position + place_.token(q);
        const Index from = std::clamp<Index>(window_.first_visible(token) - block, 0, keys_per_block);
        const Index to = std::clamp<Index>(token + 1 - block, 0, keys_per_block);
        const auto below = [](Index n) { return n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1; };
        return below(to) & ~below(from);
    }

    /// The scores of the paired keys, `count` vectors of them, for the queries from q on, as scores[…][from …].
    /// Flattened, so that at any level of optimisation the sums are registers.
    template <int rows, std::size_t count>
    [[gnu::flatten]] void multiply_keys(Index q, Vector (&scores)[rows][vectors], std::size_t from,
                                        const std::byte*& ahead) {
        Vector sums[rows][count];
        unroll<rows * count>([&](auto i) { sums[i / count][i % count] = Vector(0.0f); });
        const std::uint32_t* key = pairs_.keys();
        const bfloat16* query = queries_.row(q);
        for (Index pair = 0; pair < width_ / 2; ++pair, key += vector * count, query += 2) {
            fetch_lines<count>(ahead);
            __m512i k[count];
            unroll<count>([&](auto v) { k[v] = _mm512_load_si512(key + vector * v); });
            unroll<rows>([&](auto r) {
                const __m512i x = broadcast_pair(query + static_cast<Index>(r) * width_);
                unroll<count>([&](auto v) { sums[r][v] = multiply_add(k[v], x, sums[r][v]); });
            });
        }
        Vector* const to = &scores[0][from];  // an index that is no constant makes Clang keep the sums in memory
        unroll<rows * count>([&](auto i) { to[i / count * vectors + i % count] = sums[i / count][i % count]; });
    }

    static __m512i broadcast_pair(const bfloat16* pair) {
        std::int32_t bits;
        std::memcpy(&bits, pair, sizeof(bits));
        return _mm512_set1_epi32(bits);
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

    /// The weights s[v] and s[v + 1] of keys, multiplied with the scales of their values and rounded.
    __m512i scaled(const __m512 (&s)[vectors], std::size_t v) const {
        const auto scale = [&](std::size_t i) { return _mm512_load_ps(pairs_.value_side().scales.data() + 16 * i); };
        return std::bit_cast<__m512i>(
            _mm512_cvtne2ps_pbh(_mm512_mul_ps(s[v + 1], scale(v + 1)), _mm512_mul_ps(s[v], scale(v))));
    }

    /// Adds the weighted values of `count` vectors of columns to the sums of the queries from q on. load(pair, x) gives
    /// those of the block's keys 2 pair and 2 pair + 1.
    template <int rows, std::size_t count, class Load>
    [[gnu::flatten]] void add_columns(Index q, Index column, const Weights<rows>& weights, const Factors<rows>& rescale,
                                      PartialAttention<float> result, const std::byte*& ahead, Load load) {
        Vector sums[rows][count];
        unroll<rows>([&](auto r) {
            const float* row = result.sums(q + static_cast<Index>(r)) + column;
            const Vector factor(rescale[r]);
            unroll<count>([&](auto v) { sums[r][v] = Vector::load_aligned(row + vector * v) * factor; });
        });
        const bfloat16* weight = weights[0].data();
        for (Index pair = 0; pair < keys_per_block / 2; ++pair, weight += 2) {
            fetch_lines<count>(ahead);
            __m512i x[count];
            load(pair, x);
            unroll<rows>([&](auto r) {
                const __m512i w = broadcast_pair(weight + static_cast<Index>(r) * keys_per_block);
                unroll<count>([&](auto v) { sums[r][v] = multiply_add(x[v], w, sums[r][v]); });
            });
        }
        unroll<rows>([&](auto r) {
            float* row = result.sums(q + static_cast<Index>(r)) + column;
            unroll<count>([&](auto v) { sums[r][v].store_aligned(row + vector * v); });
        });
    }

    HeadQueries place_;
    Window window_;
    Index width_;
    Pairs pairs_;
    MatrixView<bfloat16> queries_;  // [queries, width], scaled so that scores are powers of two
    MatrixView<float> totals_;      // [queries, vector]: sums of 2^(score - maximum) by lane
    MatrixView<float> scores_;      // [queries, keys]
    MatrixView<bfloat16> weights_;  // [queries, keys]
};

}  // namespace mistral::cpu
#endif

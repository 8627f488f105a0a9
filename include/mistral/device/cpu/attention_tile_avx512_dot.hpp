#pragma once

#include <mistral/device/cpu/attention_tile.hpp>
#include <mistral/device/cpu/avx512_dot.hpp>
#include <mistral/device/cpu/avx512_pairs.hpp>
#include <mistral/device/cpu/key_value_pairs.hpp>
#include <mistral/device/cpu/paired_attention.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <span>

namespace mistral::cpu {

/// Both products are dot products of a broadcast pair with sixteen others: of whole blocks that are rearranged at once
/// for many queries, of parts on the way for few.
template <class C>
requires std::same_as<C, bfloat16> || std::same_as<C, Q8>
class AttentionTile<C, Avx512Dot> : public PairedAttention<C, 1> {
  public:
    static constexpr Index tokens_per_tile = 24;

    /// Rows that a partial result needs for so many queries: few are computed as if they were four or eight.
    [[nodiscard]] static Index padded(Index queries) { return queries <= 4 ? 4 : std::max(queries, Index{most_few}); }

    /// Elements of scratch memory that a worker needs for so many tokens, a whole number of cache lines.
    [[nodiscard]] static Index scratch_size(const Shape& shape, Index tokens) {
        return Base::scratch_size(shape, padded(tokens * shape.group()));
    }

    AttentionTile(float* scratch, const HeadQueries& place) : Base(scratch, place, padded(place.count())) {}

    void run(std::span<const KeyValueRun<C>> runs, Index first, Index last, PartialAttention<float> result) {
        for_blocks(runs, first, last, result, [&](const Positions& positions) {
            if (count_ == 4)
                attend_few<4>(positions, result);
            else if (count_ == most_few)
                attend_few<most_few>(positions, result);
            else
                attend_many(positions, result);
        });
    }

  private:
    using Base = PairedAttention<C, 1>;
    using Base::count_;
    using Base::for_blocks;
    using Base::hide_unseen;
    using Base::highest;
    using Base::pairs_;
    using Base::queries_;
    using Base::vector;
    using Base::vectors;
    using Base::visible;
    using Base::weigh;
    using Base::width_;
    using typename Base::Positions;
    using typename Base::Totals;
    using typename Base::Vector;
    using Element = CachedElement<C>;

    static constexpr int rows_together = 6;  // of queries: with 4 vectors of keys or columns, 24 sums in registers
    static constexpr int most_few = 8;       // queries, to which an arrangement is not worth writing down

    template <int rows>
    using Weights = std::array<std::array<bfloat16, keys_per_block>, static_cast<std::size_t>(rows)>;
    template <int rows>
    using Factors = std::array<float, static_cast<std::size_t>(rows)>;

    /// Rearranges the block's keys and values, and goes through the queries.
    void attend_many(const Positions& positions, PartialAttention<float> result) {
        pairs_.find_scales(positions);
        pairs_.find_keys(positions);
        pairs_.pair_keys(false, 0);
        pairs_.find_values(positions);
        pairs_.pair_values(0);
        rows_from<rows_together>(0, positions.block, result);
    }

    template <int rows>
    void rows_from(Index q, Index block, PartialAttention<float> result) {
        for (; q + rows <= count_; q += rows) attend_rows<rows>(q, block, result);
        if constexpr (rows > 1)
            if (q < count_) rows_from<rows == 6 ? 4 : rows / 2>(q, block, result);
    }

    template <int rows>
    void attend_rows(Index q, Index block, PartialAttention<float> result) {
        std::array<std::uint64_t, static_cast<std::size_t>(rows)> masks;
        for (int r = 0; r < rows; ++r) masks[static_cast<std::size_t>(r)] = visible(q + r).mask(block);
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
    void attend_few(const Positions& positions, PartialAttention<float> result) {
        pairs_.find_scales(positions);
        pairs_.find_keys(positions);
        Vector scores[rows][vectors];
        const std::byte* ahead = pairs_.key_side().next;
        for (std::size_t half = 0; half < 2; ++half) {
            pairs_.template pair_keys<keys_per_block / 2>(static_cast<Index>(half) * keys_per_block / 2, nullptr);
            multiply_keys<rows, vectors / 2>(0, scores, half * vectors / 2, ahead);
        }
        pairs_.find_values(positions);
        const auto values = pairs_.value_side().rows;
        alignas(64) Weights<rows> weights;
        Factors<rows> rescale;
        for (std::size_t r = 0; r < rows; ++r) {
            const auto q = static_cast<Index>(r);
            rescale[r] = exponentiate(q, scores[r], visible(q).mask(positions.block), result, weights[r].data());
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

    /// Scores -> weights. Returns what the sums so far are to be multiplied with.
    float exponentiate(Index q, const Vector (&scores)[vectors], std::uint64_t seen, PartialAttention<float> result,
                       bfloat16* weights) {
        __m512 masked[vectors];
        unroll<vectors>([&](auto v) { masked[v] = scores[v]; });
        hide_unseen(masked, seen, 0);
        return Base::exponentiate(q, highest(masked), result, [&](__m512 maximum, Totals& totals) {
            weigh(masked, seen, 0, maximum, totals, weights);
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

    /// The scores of the paired keys, `count` vectors of them, for the queries from q on, as scores[…][from …].
    /// Flattened and by itself, so that at any level of optimisation, whatever surrounds it, the sums are registers.
    template <int rows, std::size_t count>
    [[gnu::flatten, gnu::noinline]] void multiply_keys(Index q, Vector (&scores)[rows][vectors], std::size_t from,
                                                       const std::byte*& ahead) {
        Vector sums[rows][count];
        unroll<rows * count>([&](auto i) { sums[i / count][i % count] = Vector(0.0f); });
        const std::uint32_t* key = pairs_.keys(0);
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

    /// Adds the weighted values of `count` vectors of columns to the sums of the queries from q on. load(pair, x) gives
    /// those of the block's keys 2 pair and 2 pair + 1.
    template <int rows, std::size_t count, class Load>
    [[gnu::flatten, gnu::noinline]] void add_columns(Index q, Index column, const Weights<rows>& weights,
                                                     const Factors<rows>& rescale, PartialAttention<float> result,
                                                     const std::byte*& ahead, Load load) {
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
};

}  // namespace mistral::cpu
#endif

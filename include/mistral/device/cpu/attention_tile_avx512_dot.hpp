#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/attention_tile.hpp>
#include <mistral/device/cpu/avx512_dot.hpp>
#include <mistral/device/cpu/avx512_pairs.hpp>

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

    /// head_dim, padded to whole cache lines of the cache's elements.
    [[nodiscard]] static Index width(const Shape& shape) { return round_up(shape.head_dim, elements_per_line); }

    /// Rows that a partial result needs for so many queries: few are computed as if they were four or eight.
    [[nodiscard]] static Index padded(Index queries) { return queries <= 4 ? 4 : std::max(queries, Index{most_few}); }

    /// Elements of scratch memory that a worker needs, a whole number of cache lines.
    [[nodiscard]] static Index scratch_size(const Shape& shape) {
        const Index queries = padded(tokens_per_tile * shape.group());
        return keys_per_block * width(shape) * 3 / 2 + queries * (width(shape) / 2 + vector);
    }

    AttentionTile(float* scratch, const HeadQueries& place)
        : place_(place), window_{place.shape.window}, width_(width(place.shape)) {
        const Index queries = padded(tokens_per_tile * place.shape.group());
        const auto take = [&scratch]<class T>(T*, Index rows, Index cols) {
            const MatrixView<T> taken(reinterpret_cast<T*>(scratch), rows, cols);
            scratch += rows * cols * static_cast<Index>(sizeof(T)) / static_cast<Index>(sizeof(float));
            return taken;
        };
        keys_ = take(keys_.data(), width_ / 2, keys_per_block);
        values_ = take(values_.data(), keys_per_block / 2, width_);
        gathered_ = take(gathered_.data(), keys_per_block, width_);
        queries_ = take(queries_.data(), queries, width_);
        totals_ = take(totals_.data(), queries, vector);
    }

    void start(MatrixView<const float> queries) {
        const Index count = place_.count();
        const float scale =
            static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(place_.shape.head_dim)));
        float* scaled = reinterpret_cast<float*>(gathered_.data());
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
            const BlockRows rows{runs, block, std::max(block, visible), std::min(end, block + keys_per_block)};
            if (queries == 4)
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
    using Vector = Batch<float, Avx512Dot>;
    using Element = CachedElement<C>;

    static constexpr bool has_scales = std::same_as<C, Q8>;
    static constexpr Index elements_per_line = cache_line / Index{sizeof(Element)};
    static constexpr Index vector = 16;
    static constexpr int rows_together = 6;  // of queries: with 4 vectors of keys or columns, 24 sums in registers
    static constexpr std::size_t vectors = 4;
    static constexpr int most_few = 8;  // queries, to which an arrangement is not worth writing down

    /// The positions first … last - 1 of a block: what the others hold counts as zeros.
    struct BlockRows {
        std::span<const KeyValueRun<C>> runs;
        Index block;
        Index first;
        Index last;
    };

    /// Of a block's keys or values, where they have any.
    using Scales = std::array<float, keys_per_block>;

    /// A block's keys or values in memory, width_ elements each.
    struct Rows {
        const Element* first;
        Index stride;

        [[nodiscard]] const Element* row(Index i) const { return first + i * stride; }
    };

    template <int rows>
    using Weights = std::array<std::array<bfloat16, keys_per_block>, static_cast<std::size_t>(rows)>;
    template <int rows>
    using Factors = std::array<float, static_cast<std::size_t>(rows)>;

    /// Calls body(index in the block, row) for the keys or values of the block.
    template <class Body>
    void for_each_row(const BlockRows& rows, const Element* KeyValueRun<C>::*memory, Body body) const {
        for (const KeyValueRun<C>& run : rows.runs)
            for (Index p = std::max(rows.first, run.position); p < std::min(rows.last, run.position + run.count); ++p)
                body(p - rows.block, run.*memory + place_.offset(run, p));
    }

    /// The block's keys or values where they are, if all of them are there and are whole cache lines; otherwise
    /// gathered. `next` becomes what follows in memory where that is the next block, which it is in a cache.
    [[nodiscard]] Rows find(const BlockRows& rows, const Element* KeyValueRun<C>::*memory, const std::byte*& next,
                            Scales& scales) const {
        if constexpr (has_scales) {
            scales.fill(0.0f);
            for_each_row(rows, memory, [&](Index i, const Element* row) {
                scales[static_cast<std::size_t>(i)] = CachedRow<C>::scale(row, place_.shape.head_dim);
            });
        }
        next = nullptr;
        if (width_ == place_.shape.head_dim && rows.last - rows.first == keys_per_block)
            for (const KeyValueRun<C>& run : rows.runs)
                if (run.position <= rows.first && rows.last <= run.position + run.count) {
                    const Index offset = place_.offset(run, rows.first);
                    const Rows found{run.*memory + offset, run.position_stride};
                    if (found.stride == CachedRow<C>::size(width_))
                        next = reinterpret_cast<const std::byte*>(found.row(keys_per_block));
                    return found;
                }
        std::fill_n(gathered_.data(), keys_per_block * width_, Element(0));
        for_each_row(rows, memory,
                     [&](Index i, const Element* row) { std::copy_n(row, place_.shape.head_dim, gathered_.row(i)); });
        return {gathered_.data(), width_};
    }

    /// Rearranges the block's keys and values, and goes through the queries.
    void attend_many(const BlockRows& rows, Index queries, PartialAttention<float> result) {
        const Rows keys = find(rows, &KeyValueRun<C>::keys, next_keys_, key_scales_);
        pair_keys<keys_per_block>(keys, 0);
        const Rows values = find(rows, &KeyValueRun<C>::values, next_values_, value_scales_);
        for (Index key = 0; key < keys_per_block; key += 2)
            for (Index column = 0; column < width_; column += 2 * vector) {
                __m512i pairs[2];
                interleave(values.row(key) + column, values.row(key + 1) + column, pairs);
                _mm512_store_si512(values_.row(key / 2) + column, pairs[0]);
                _mm512_store_si512(values_.row(key / 2) + column + vector, pairs[1]);
            }
        rows_from<rows_together>(0, queries, rows.block, result);
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
        const std::byte* ahead = q == 0 ? next_keys_ : nullptr;
        multiply_keys<rows, vectors>(q, scores, 0, ahead);
        alignas(64) Weights<rows> weights;
        Factors<rows> rescale;
        for (std::size_t r = 0; r < rows; ++r)
            rescale[r] = exponentiate(q + static_cast<Index>(r), scores[r], masks[r], result, weights[r].data());
        ahead = q == 0 ? next_values_ : nullptr;
        for_columns<vectors>([&](Index column, auto count) {
            add_columns<rows, count>(q, column, weights, rescale, result, ahead, [&](Index pair, __m512i* x) {
                const std::uint32_t* value = values_.row(pair) + column;
                unroll<count>([&](auto v) { x[v] = _mm512_load_si512(value + vector * v); });
            });
        });
    }

    /// The same for few queries, which begin at 0. Keys are rearranged for half a block at a time, values on the way.
    template <int rows>
    void attend_few(const BlockRows& block, PartialAttention<float> result) {
        const Rows keys = find(block, &KeyValueRun<C>::keys, next_keys_, key_scales_);
        Vector scores[rows][vectors];
        const std::byte* ahead = next_keys_;
        for (std::size_t half = 0; half < 2; ++half) {
            pair_keys<keys_per_block / 2>(keys, static_cast<Index>(half) * keys_per_block / 2);
            multiply_keys<rows, vectors / 2>(0, scores, half * vectors / 2, ahead);
        }
        const Rows values = find(block, &KeyValueRun<C>::values, next_values_, value_scales_);
        alignas(64) Weights<rows> weights;
        Factors<rows> rescale;
        for (std::size_t r = 0; r < rows; ++r) {
            const auto q = static_cast<Index>(r);
            rescale[r] = exponentiate(q, scores[r], mask(q, block.block), result, weights[r].data());
        }
        ahead = next_values_;
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

    /// Transposes `count` of the keys: [width / 2, count] pairs.
    template <Index count>
    void pair_keys(Rows keys, Index from) {
        for (Index key = 0; key < count; key += vector)
            for (Index column = 0; column < width_; column += elements_per_line)
                transpose_pairs(keys.row(from + key) + column, keys.stride, keys_.data() + column / 2 * count + key,
                                count);
    }

    /// The scores of the paired keys, `count` vectors of them, for the queries from q on, as scores[…][from …].
    /// Flattened, so that at any level of optimisation the sums are registers.
    template <int rows, std::size_t count>
    [[gnu::flatten]] void multiply_keys(Index q, Vector (&scores)[rows][vectors], std::size_t from,
                                        const std::byte*& ahead) {
        Vector sums[rows][count];
        unroll<rows * count>([&](auto i) { sums[i / count][i % count] = Vector(0.0f); });
        const std::uint32_t* key = keys_.data();
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

    /// Asks for the lines at `ahead`, if any, and moves on. With as many as there are vectors in a step, a block of
    /// bfloat16, or two of Q8, are fetched while their predecessor is multiplied; more at once are too many for the
    /// processor, which ignores them.
    template <std::size_t lines>
    static void fetch_lines(const std::byte*& ahead) {
        if (ahead == nullptr) return;
        unroll<lines>([&](auto i) { prefetch(ahead + cache_line * i); });
        ahead += static_cast<Index>(lines) * cache_line;
    }

    /// Scores -> weights 2^(score - maximum) with the maximum of all scores so far, zero where the mask is. Returns
    /// what the sums so far are to be multiplied with.
    float exponentiate(Index q, const Vector (&scores)[vectors], std::uint64_t mask, PartialAttention<float> result,
                       bfloat16* weights) {
        constexpr float lowest = std::numeric_limits<float>::lowest();
        __m512 s[vectors];
        unroll<vectors>([&](auto v) {
            const Vector score =
                has_scales ? scores[v] * Vector::load_aligned(key_scales_.data() + vector * v) : scores[v];
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
        const auto scale = [&](std::size_t i) { return _mm512_load_ps(value_scales_.data() + 16 * i); };
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
    const std::byte* next_keys_ = nullptr;  // of the block that follows
    const std::byte* next_values_ = nullptr;
    MatrixView<std::uint32_t> keys_;    // [width / 2, keys]: pairs of elements of a key
    MatrixView<std::uint32_t> values_;  // [keys_per_block / 2, width]: pairs of one element of consecutive values
    MatrixView<Element> gathered_;      // [keys_per_block, width]
    MatrixView<bfloat16> queries_;      // [queries, width], scaled so that scores are powers of two
    MatrixView<float> totals_;          // [queries, vector]: sums of 2^(score - maximum) by lane
    alignas(64) Scales key_scales_;     // of the block at hand
    alignas(64) Scales value_scales_;
};

}  // namespace mistral::cpu
#endif

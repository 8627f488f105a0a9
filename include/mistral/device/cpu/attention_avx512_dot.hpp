#pragma once

#include <mistral/device/cpu/attention.hpp>
#include <mistral/device/cpu/avx512_dot.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
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

/// Transposes 16 x 16 elements of 32 bits: row r begins at from[r], column c is written to `to` + c * stride.
inline void transpose(const __m512i (&from)[16], std::uint32_t* to, Index stride) {
    __m512i a[16], b[16];
    for (std::size_t i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(from[i], from[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(from[i], from[i + 1]);
    }
    for (std::size_t i = 0; i < 16; i += 4)
        for (std::size_t j = 0; j < 2; ++j) {
            b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
    // b[4 i + c] holds, in its quarter q, column 4 q + c of the rows 4 i … 4 i + 3.
    for (std::size_t c = 0; c < 4; ++c) {
        const __m512i low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88);
        const __m512i low_odd = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);
        const __m512i high = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
        const __m512i high_odd = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
        const auto column = static_cast<Index>(c);
        _mm512_storeu_si512(to + column * stride, _mm512_shuffle_i32x4(low, high, 0x88));
        _mm512_storeu_si512(to + (4 + column) * stride, _mm512_shuffle_i32x4(low_odd, high_odd, 0x88));
        _mm512_storeu_si512(to + (8 + column) * stride, _mm512_shuffle_i32x4(low, high, 0xdd));
        _mm512_storeu_si512(to + (12 + column) * stride, _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd));
    }
}

/// Attention over keys and values in bfloat16: queries and the exponentials of scores are rounded to it too, sums and
/// maxima are binary32. Blocks of keys and values are rearranged into pairs, so that both products are dot products of
/// a broadcast pair with sixteen others.
template <>
class AttentionTile<bfloat16, Avx512Dot> {
  public:
    static constexpr Index tokens_per_tile = 24;

    /// Elements of scratch memory that a worker needs, a whole number of cache lines.
    [[nodiscard]] static Index scratch_size(const Shape& shape) {
        const Index width = padded_to_steps<bfloat16, Avx512Dot>(shape.head_dim);
        const Index queries = tokens_per_tile * shape.group();
        return keys_per_block * width + queries * (width / 2 + width + vector + 1) + vector;
    }

    AttentionTile(float* scratch, const Shape& shape)
        : shape_(shape), window_{shape.window}, width_(padded_to_steps<bfloat16, Avx512Dot>(shape.head_dim)) {
        const Index queries = tokens_per_tile * shape.group();
        const auto take = [&scratch]<class T>(T*, Index rows, Index cols) {
            const MatrixView<T> taken(reinterpret_cast<T*>(scratch), rows, cols);
            scratch += rows * cols * static_cast<Index>(sizeof(T)) / static_cast<Index>(sizeof(float));
            return taken;
        };
        keys_ = take(keys_.data(), width_ / 2, keys_per_block);
        values_ = take(values_.data(), keys_per_block / 2, width_);
        queries_ = take(queries_.data(), queries, width_);
        sums_ = take(sums_.data(), queries, width_);
        totals_ = take(totals_.data(), queries, vector);
        maxima_ = take(maxima_.data(), 1, queries);
    }

    /// queries [tokens, query_heads * head_dim] of at most tokens_per_tile tokens, the first at `position`; the result
    /// for the heads of `kv_head` goes to the same columns of out.
    void run(MatrixView<const float> queries, Index position, Index kv_head,
             std::span<const KeyValueRun<bfloat16>> runs, MatrixView<float> out) {
        start(queries, kv_head);
        const Index end = position + queries.rows();
        const Index visible = window_.first_visible(position);
        for (Index block = visible / keys_per_block * keys_per_block; block < end; block += keys_per_block) {
            load(runs, kv_head, block, std::max(block, visible), std::min(end, block + keys_per_block));
            rows_from<rows_together>(0, queries.rows() * shape_.group(), position, block);
        }
        finish(kv_head, out);
    }

  private:
    using Vector = Batch<float, Avx512Dot>;

    static constexpr Index vector = 16;
    static constexpr int rows_together = 6;  // of queries: with 4 vectors of keys or columns, 24 sums in registers
    static constexpr std::size_t vectors = 4;
    static constexpr float lowest = -1e30f;  // below every score, and finite: its distance to itself is a number

    template <int rows>
    using Weights = std::array<std::array<bfloat16, keys_per_block>, static_cast<std::size_t>(rows)>;

    void start(MatrixView<const float> queries, Index kv_head) {
        const float scale = static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(shape_.head_dim)));
        for (Index token = 0, q = 0; token < queries.rows(); ++token)
            for (Index head = 0; head < shape_.group(); ++head, ++q) {
                const float* query = queries.row(token) + (kv_head * shape_.group() + head) * shape_.head_dim;
                float* scaled = sums_.row(q);
                std::transform(query, query + shape_.head_dim, scaled, [=](float x) { return x * scale; });
                pack<bfloat16, Avx512Dot>(scaled, shape_.head_dim, queries_.row(q));
                std::fill_n(scaled, width_, 0.0f);
                std::fill_n(totals_.row(q), vector, 0.0f);
                maxima_(0, q) = lowest;
            }
    }

    /// Rearranges the keys and values of the positions first … last - 1 of the block that begins at `block`; the others
    /// are zeros.
    void load(std::span<const KeyValueRun<bfloat16>> runs, Index kv_head, Index block, Index first, Index last) {
        std::array<const bfloat16*, keys_per_block> keys{}, values{};
        for (const KeyValueRun<bfloat16>& run : runs)
            for (Index p = std::max(first, run.position); p < std::min(last, run.position + run.count); ++p) {
                const Index offset = kv_head * run.head_stride + (p - run.position) * run.position_stride;
                keys[static_cast<std::size_t>(p - block)] = run.keys + offset;
                values[static_cast<std::size_t>(p - block)] = run.values + offset;
            }
        const auto pairs = [this](const bfloat16* row, Index column) {
            return row == nullptr ? _mm512_setzero_si512() : load_pairs(row + column, shape_.head_dim - column);
        };
        constexpr Index step = 2 * vector;
        for (Index column = 0; column < width_; column += step)
            for (std::size_t key = 0; key < keys.size(); key += vector) {
                __m512i rows[vector];
                for (std::size_t i = 0; i < vector; ++i) rows[i] = pairs(keys[key + i], column);
                transpose(rows, keys_.row(column / 2) + key, keys_per_block);
            }
        for (std::size_t key = 0; key < values.size(); key += 2)
            for (Index column = 0; column < width_; column += step)
                interleave(pairs(values[key], column), pairs(values[key + 1], column),
                           values_.row(static_cast<Index>(key / 2)) + column);
    }

    /// a0 b0 a1 b1 … a31 b31
    static void interleave(__m512i a, __m512i b, std::uint32_t* to) {
        static constexpr auto order = [] {
            std::array<std::uint16_t, 64> indices{};
            for (std::uint16_t i = 0; i < 64; ++i) indices[i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 32);
            return indices;
        }();
        _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, _mm512_loadu_si512(order.data()), b));
        _mm512_storeu_si512(to + vector, _mm512_permutex2var_epi16(a, _mm512_loadu_si512(order.data() + 32), b));
    }

    template <int rows>
    void rows_from(Index q, Index queries, Index position, Index block) {
        for (; q + rows <= queries; q += rows) attend_rows<rows>(q, position, block);
        if constexpr (rows > 1)
            if (q < queries) rows_from<rows == 6 ? 4 : rows / 2>(q, queries, position, block);
    }

    /// Which keys of the block the query row q sees.
    [[nodiscard]] std::uint64_t mask(Index q, Index position, Index block) const {
        const Index token = position + q / shape_.group();
        const Index from = std::clamp<Index>(window_.first_visible(token) - block, 0, keys_per_block);
        const Index to = std::clamp<Index>(token + 1 - block, 0, keys_per_block);
        const auto below = [](Index n) { return n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1; };
        return below(to) & ~below(from);
    }

    template <int rows>
    void attend_rows(Index q, Index position, Index block) {
        std::array<std::uint64_t, static_cast<std::size_t>(rows)> masks;
        for (int r = 0; r < rows; ++r) masks[static_cast<std::size_t>(r)] = mask(q + r, position, block);
        alignas(64) Weights<rows> weights;
        std::array<float, static_cast<std::size_t>(rows)> rescale;
        score<rows>(q, masks, weights, rescale);
        for (Index column = 0; column < width_; column += static_cast<Index>(vectors) * vector)
            if (width_ - column >= static_cast<Index>(vectors) * vector)
                add_columns<rows, vectors>(q, column, weights, rescale);
            else
                add_columns<rows, vectors / 2>(q, column, weights, rescale);
    }

    template <int rows>
    void score(Index q, const std::array<std::uint64_t, static_cast<std::size_t>(rows)>& masks, Weights<rows>& weights,
               std::array<float, static_cast<std::size_t>(rows)>& rescale) {
        Vector scores[rows][vectors];
        unroll<rows * vectors>([&](auto i) { scores[i / vectors][i % vectors] = Vector(0.0f); });
        const std::uint32_t* key = keys_.data();
        const bfloat16* query = queries_.row(q);
        for (Index pair = 0; pair < width_ / 2; ++pair, key += keys_per_block, query += 2) {
            __m512i k[vectors];
            unroll<vectors>([&](auto v) { k[v] = _mm512_loadu_si512(key + vector * v); });
            unroll<rows>([&](auto r) {
                const __m512i x = broadcast_pair(query + static_cast<Index>(r) * width_);
                unroll<vectors>([&](auto v) { scores[r][v] = multiply_add(k[v], x, scores[r][v]); });
            });
        }
        for (std::size_t r = 0; r < rows; ++r)
            rescale[r] = exponentiate(q + static_cast<Index>(r), scores[r], masks[r], weights[r].data());
    }

    static __m512i broadcast_pair(const bfloat16* pair) {
        std::int32_t bits;
        std::memcpy(&bits, pair, sizeof(bits));
        return _mm512_set1_epi32(bits);
    }

    /// Scores -> weights 2^(score - maximum) with the maximum of all scores so far, zero where the mask is. Returns
    /// what the sums so far are to be multiplied with.
    float exponentiate(Index q, const Vector (&scores)[vectors], std::uint64_t mask, bfloat16* weights) {
        __m512 s[vectors];
        unroll<vectors>([&](auto v) {
            s[v] = _mm512_mask_mov_ps(_mm512_set1_ps(lowest), static_cast<__mmask16>(mask >> (16 * v)), scores[v]);
        });
        const float maximum = std::max(
            maxima_(0, q), _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]))));
        unroll<vectors>([&](auto v) {
            s[v] = _mm512_maskz_mov_ps(static_cast<__mmask16>(mask >> (16 * v)),
                                       exponential_of_two(_mm512_sub_ps(s[v], _mm512_set1_ps(maximum))));
        });
        const __m512 rescale = exponential_of_two(_mm512_set1_ps(maxima_(0, q) - maximum));
        maxima_(0, q) = maximum;
        Vector total = _mm512_mul_ps(_mm512_loadu_ps(totals_.row(q)), rescale);
        const __m512i ones = _mm512_set1_epi16(std::bit_cast<std::int16_t>(bfloat16(1.0f)));
        unroll<vectors / 2>([&](auto v) {
            const auto rounded = std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(s[2 * v + 1], s[2 * v]));
            _mm512_storeu_si512(weights + 32 * v, rounded);
            total = multiply_add(rounded, ones, total);
        });
        _mm512_storeu_ps(totals_.row(q), total);
        return _mm512_cvtss_f32(rescale);
    }

    /// Adds the weighted values of `count` vectors of columns to the rows' sums.
    template <int rows, std::size_t count>
    void add_columns(Index q, Index column, const Weights<rows>& weights,
                     const std::array<float, static_cast<std::size_t>(rows)>& rescale) {
        Vector sums[rows][count];
        unroll<rows>([&](auto r) {
            const float* row = sums_.row(q + static_cast<Index>(r)) + column;
            const Vector factor(rescale[r]);
            unroll<count>([&](auto v) { sums[r][v] = Vector::load_unaligned(row + vector * v) * factor; });
        });
        const std::uint32_t* value = values_.data() + column;
        const bfloat16* weight = weights[0].data();
        for (Index pair = 0; pair < keys_per_block / 2; ++pair, value += width_, weight += 2) {
            __m512i x[count];
            unroll<count>([&](auto v) { x[v] = _mm512_loadu_si512(value + vector * v); });
            unroll<rows>([&](auto r) {
                const __m512i w = broadcast_pair(weight + static_cast<Index>(r) * keys_per_block);
                unroll<count>([&](auto v) { sums[r][v] = multiply_add(x[v], w, sums[r][v]); });
            });
        }
        unroll<rows>([&](auto r) {
            float* row = sums_.row(q + static_cast<Index>(r)) + column;
            unroll<count>([&](auto v) { sums[r][v].store_unaligned(row + vector * v); });
        });
    }

    void finish(Index kv_head, MatrixView<float> out) {
        for (Index token = 0, q = 0; token < out.rows(); ++token)
            for (Index head = 0; head < shape_.group(); ++head, ++q) {
                const float total =
                    LaneSums<float, Avx512Dot>::of(std::array{Vector::load_unaligned(totals_.row(q))})[0];
                float* to = out.row(token) + (kv_head * shape_.group() + head) * shape_.head_dim;
                std::transform(sums_.row(q), sums_.row(q) + shape_.head_dim, to,
                               [=](float sum) { return sum / total; });
            }
    }

    Shape shape_;
    Window window_;
    Index width_;                       // head_dim, padded
    MatrixView<std::uint32_t> keys_;    // [width / 2, keys_per_block]: pairs of elements of a key
    MatrixView<std::uint32_t> values_;  // [keys_per_block / 2, width]: pairs of one element of consecutive values
    MatrixView<bfloat16> queries_;      // [queries, width], scaled so that scores are powers of two
    MatrixView<float> sums_;            // [queries, width]: values weighted by 2^(score - maximum)
    MatrixView<float> totals_;          // [queries, vector]: sums of 2^(score - maximum) by lane
    MatrixView<float> maxima_;          // [1, queries]
};

}  // namespace mistral::cpu
#endif

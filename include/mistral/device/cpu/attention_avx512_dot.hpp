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

/// Transposes 16 x 16 elements of 32 bits: row r begins at from + r * from_stride, column c at to + c * to_stride.
[[gnu::flatten]] inline void transpose(const bfloat16* from, Index from_stride, std::uint32_t* to, Index to_stride) {
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

/// Interleaves two rows of `count` elements, a multiple of 32: a0 b0 a1 b1 …
inline void interleave(const bfloat16* a, const bfloat16* b, Index count, std::uint32_t* to) {
    static constexpr auto order = [] {
        std::array<std::uint16_t, 64> indices{};
        for (std::uint16_t i = 0; i < 64; ++i) indices[i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 32);
        return indices;
    }();
    const __m512i first = _mm512_loadu_si512(order.data());
    const __m512i second = _mm512_loadu_si512(order.data() + 32);
    for (Index i = 0; i < count; i += 32) {
        const __m512i x = _mm512_loadu_si512(a + i);
        const __m512i y = _mm512_loadu_si512(b + i);
        _mm512_store_si512(to + i, _mm512_permutex2var_epi16(x, first, y));
        _mm512_store_si512(to + i + 16, _mm512_permutex2var_epi16(x, second, y));
    }
}

/// Attention over keys and values in bfloat16: queries and the exponentials of scores are rounded to it too, sums and
/// maxima are binary32. Blocks of keys and values are rearranged into pairs, so that both products are dot products of
/// a broadcast pair with sixteen others.
template <>
class AttentionTile<bfloat16, Avx512Dot> {
  public:
    static constexpr Index tokens_per_tile = 24;

    /// head_dim, padded.
    [[nodiscard]] static Index width(const Shape& shape) {
        return padded_to_steps<bfloat16, Avx512Dot>(shape.head_dim);
    }

    /// Elements of scratch memory that a worker needs, a whole number of cache lines.
    [[nodiscard]] static Index scratch_size(const Shape& shape) {
        const Index queries = tokens_per_tile * shape.group();
        return keys_per_block * width(shape) * 3 / 2 + queries * (width(shape) / 2 + vector);
    }

    AttentionTile(float* scratch, const Shape& shape) : shape_(shape), window_{shape.window}, width_(width(shape)) {
        const Index queries = tokens_per_tile * shape.group();
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

    /// queries [tokens, query_heads * head_dim] of at most tokens_per_tile tokens, the first at `position`, of which
    /// the heads of `kv_head` are taken.
    void start(MatrixView<const float> queries, Index position, Index kv_head) {
        position_ = position;
        tokens_ = queries.rows();
        kv_head_ = kv_head;
        const float scale = static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(shape_.head_dim)));
        float* scaled = reinterpret_cast<float*>(gathered_.data());
        for (Index q = 0; q < tokens_ * shape_.group(); ++q) {
            const float* query = queries.row(q / shape_.group()) + column(q);
            std::transform(query, query + shape_.head_dim, scaled, [=](float x) { return x * scale; });
            pack<bfloat16, Avx512Dot>(scaled, shape_.head_dim, queries_.row(q));
        }
    }

    /// The softmax over those of the positions first … last - 1 that the queries see. `first` begins a block.
    void run(std::span<const KeyValueRun<bfloat16>> runs, Index first, Index last, PartialAttention<float> result) {
        const Index queries = tokens_ * shape_.group();
        result.clear(queries);
        std::fill_n(totals_.data(), queries * vector, 0.0f);
        const Index visible = std::max(first, window_.first_visible(position_));
        const Index end = std::min(last, position_ + tokens_);
        for (Index block = visible / keys_per_block * keys_per_block; block < end; block += keys_per_block) {
            load(runs, block, std::max(block, visible), std::min(end, block + keys_per_block));
            rows_from<rows_together>(0, queries, block, result);
        }
        for (Index q = 0; q < queries; ++q)
            result.total(q) = LaneSums<float, Avx512Dot>::of(std::array{Vector::load_unaligned(totals_.row(q))})[0];
    }

    static float power(float x) { return std::exp2(x); }

    /// Writes the weighted means to the heads' columns of out [tokens, query_heads * head_dim].
    void finish(PartialAttention<float> result, MatrixView<float> out) {
        for (Index q = 0; q < tokens_ * shape_.group(); ++q)
            std::transform(result.sums(q), result.sums(q) + shape_.head_dim, out.row(q / shape_.group()) + column(q),
                           [total = result.total(q)](float sum) { return sum / total; });
    }

  private:
    using Vector = Batch<float, Avx512Dot>;

    static constexpr Index vector = 16;
    static constexpr Index value_bytes = keys_per_block * static_cast<Index>(sizeof(bfloat16));  // of a block's column
    static constexpr int rows_together = 6;  // of queries: with 4 vectors of keys or columns, 24 sums in registers
    static constexpr std::size_t vectors = 4;
    template <int rows>
    using Weights = std::array<std::array<bfloat16, keys_per_block>, static_cast<std::size_t>(rows)>;

    /// Where the query's head begins in a token's row.
    [[nodiscard]] Index column(Index q) const {
        return (kv_head_ * shape_.group() + q % shape_.group()) * shape_.head_dim;
    }

    /// Rearranges the keys and values of the positions first … last - 1 of the block that begins at `block`; the others
    /// are zeros.
    void load(std::span<const KeyValueRun<bfloat16>> runs, Index block, Index first, Index last) {
        const Rows keys = rows(runs, &KeyValueRun<bfloat16>::keys, block, first, last);
        for (Index key = 0; key < keys_per_block; key += vector)
            for (Index column = 0; column < width_; column += 2 * vector)
                transpose(keys.first + key * keys.stride + column, keys.stride, keys_.row(column / 2) + key,
                          keys_per_block);
        next_keys_ = keys.next_block(width_);
        const Rows values = rows(runs, &KeyValueRun<bfloat16>::values, block, first, last);
        next_values_ = values.next_block(width_);
        for (Index key = 0; key < keys_per_block; key += 2)
            interleave(values.first + key * values.stride, values.first + (key + 1) * values.stride, width_,
                       values_.row(key / 2));
    }

    /// A block's keys or values, width_ elements each.
    struct Rows {
        const bfloat16* first;
        Index stride;

        /// What follows in memory, where it is the next block: in a cache, not in a chunk.
        [[nodiscard]] const std::byte* next_block(Index width) const {
            return reinterpret_cast<const std::byte*>(stride == width ? first + keys_per_block * stride : nullptr);
        }
    };

    /// Where they are, if they are all there and whole vectors; otherwise gathered, with zeros for what is not.
    [[nodiscard]] Rows rows(std::span<const KeyValueRun<bfloat16>> runs, const bfloat16* KeyValueRun<bfloat16>::*memory,
                            Index block, Index first, Index last) const {
        const auto row = [&](const KeyValueRun<bfloat16>& run, Index p) {
            return run.*memory + kv_head_ * run.head_stride + (p - run.position) * run.position_stride;
        };
        if (width_ == shape_.head_dim && last - first == keys_per_block)
            for (const KeyValueRun<bfloat16>& run : runs)
                if (run.position <= first && last <= run.position + run.count)
                    return {row(run, first), run.position_stride};
        std::fill_n(gathered_.data(), keys_per_block * width_, bfloat16(0));
        for (const KeyValueRun<bfloat16>& run : runs)
            for (Index p = std::max(first, run.position); p < std::min(last, run.position + run.count); ++p)
                std::copy_n(row(run, p), shape_.head_dim, gathered_.row(p - block));
        return {gathered_.data(), width_};
    }

    template <int rows>
    void rows_from(Index q, Index queries, Index block, PartialAttention<float> result) {
        for (; q + rows <= queries; q += rows) attend_rows<rows>(q, block, result);
        if constexpr (rows > 1)
            if (q < queries) rows_from<rows == 6 ? 4 : rows / 2>(q, queries, block, result);
    }

    /// Which keys of the block the query row q sees.
    [[nodiscard]] std::uint64_t mask(Index q, Index block) const {
        const Index token = position_ + q / shape_.group();
        const Index from = std::clamp<Index>(window_.first_visible(token) - block, 0, keys_per_block);
        const Index to = std::clamp<Index>(token + 1 - block, 0, keys_per_block);
        const auto below = [](Index n) { return n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1; };
        return below(to) & ~below(from);
    }

    template <int rows>
    void attend_rows(Index q, Index block, PartialAttention<float> result) {
        std::array<std::uint64_t, static_cast<std::size_t>(rows)> masks;
        for (int r = 0; r < rows; ++r) masks[static_cast<std::size_t>(r)] = mask(q + r, block);
        if (std::all_of(masks.begin(), masks.end(), [](std::uint64_t seen) { return seen == 0; })) return;
        alignas(64) Weights<rows> weights;
        std::array<float, static_cast<std::size_t>(rows)> rescale;
        score<rows>(q, masks, result, weights, rescale);
        constexpr Index columns = static_cast<Index>(vectors) * vector;
        for (Index column = 0; column < width_; column += columns)
            if (width_ - column >= columns)
                add_columns<rows, vectors>(q, column, weights, rescale, result);
            else
                add_columns<rows, vectors / 2>(q, column, weights, rescale, result);
    }

    /// Flattened, so that at any level of optimisation the sums are registers.
    template <int rows>
    [[gnu::flatten]] void score(Index q, const std::array<std::uint64_t, static_cast<std::size_t>(rows)>& masks,
                                PartialAttention<float> result, Weights<rows>& weights,
                                std::array<float, static_cast<std::size_t>(rows)>& rescale) {
        Vector scores[rows][vectors];
        unroll<rows * vectors>([&](auto i) { scores[i / vectors][i % vectors] = Vector(0.0f); });
        const std::uint32_t* key = keys_.data();
        const bfloat16* query = queries_.row(q);
        const std::byte* ahead = q == 0 ? next_keys_ : nullptr;
        for (Index pair = 0; pair < width_ / 2; ++pair, key += keys_per_block, query += 2) {
            fetch_lines(ahead);
            __m512i k[vectors];
            unroll<vectors>([&](auto v) { k[v] = _mm512_loadu_si512(key + vector * v); });
            unroll<rows>([&](auto r) {
                const __m512i x = broadcast_pair(query + static_cast<Index>(r) * width_);
                unroll<vectors>([&](auto v) { scores[r][v] = multiply_add(k[v], x, scores[r][v]); });
            });
        }
        for (std::size_t r = 0; r < rows; ++r)
            rescale[r] = exponentiate(scores[r], masks[r], result.maximum(q + static_cast<Index>(r)),
                                      totals_.row(q + static_cast<Index>(r)), weights[r].data());
    }

    /// Asks for the lines at `ahead`, if any, and moves on. As many as make a block while its first rows are
    /// multiplied, a few beside each step of arithmetic: processors ignore what exceeds their queues.
    static void fetch_lines(const std::byte*& ahead) {
        constexpr Index lines = 4;
        if (ahead == nullptr) return;
        unroll<lines>([&](auto i) { prefetch(ahead + static_cast<Index>(i) * cache_line); });
        ahead += lines * cache_line;
    }

    static __m512i broadcast_pair(const bfloat16* pair) {
        std::int32_t bits;
        std::memcpy(&bits, pair, sizeof(bits));
        return _mm512_set1_epi32(bits);
    }

    /// Scores -> weights 2^(score - maximum) with the maximum of all scores so far, zero where the mask is. Returns
    /// what the sums so far are to be multiplied with.
    static float exponentiate(const Vector (&scores)[vectors], std::uint64_t mask, float& maximum_so_far, float* totals,
                              bfloat16* weights) {
        constexpr float lowest = std::numeric_limits<float>::lowest();
        __m512 s[vectors];
        unroll<vectors>([&](auto v) {
            s[v] = _mm512_mask_mov_ps(_mm512_set1_ps(lowest), static_cast<__mmask16>(mask >> (16 * v)), scores[v]);
        });
        const float maximum = std::max(
            maximum_so_far, _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]))));
        unroll<vectors>([&](auto v) {
            s[v] = _mm512_maskz_mov_ps(static_cast<__mmask16>(mask >> (16 * v)),
                                       exponential_of_two(_mm512_sub_ps(s[v], _mm512_set1_ps(maximum))));
        });
        const __m512 rescale = exponential_of_two(_mm512_set1_ps(maximum_so_far - maximum));
        maximum_so_far = maximum;
        Vector total = _mm512_mul_ps(_mm512_loadu_ps(totals), rescale);
        const __m512i ones = _mm512_set1_epi16(std::bit_cast<std::int16_t>(bfloat16(1.0f)));
        unroll<vectors / 2>([&](auto v) {
            const auto rounded = std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(s[2 * v + 1], s[2 * v]));
            _mm512_storeu_si512(weights + 32 * v, rounded);
            total = multiply_add(rounded, ones, total);
        });
        _mm512_storeu_ps(totals, total);
        return _mm512_cvtss_f32(rescale);
    }

    /// Adds the weighted values of `count` vectors of columns to the rows' sums.
    template <int rows, std::size_t count>
    [[gnu::flatten]] void add_columns(Index q, Index column, const Weights<rows>& weights,
                                      const std::array<float, static_cast<std::size_t>(rows)>& rescale,
                                      PartialAttention<float> result) {
        Vector sums[rows][count];
        unroll<rows>([&](auto r) {
            const float* row = result.sums(q + static_cast<Index>(r)) + column;
            const Vector factor(rescale[r]);
            unroll<count>([&](auto v) { sums[r][v] = Vector::load_unaligned(row + vector * v) * factor; });
        });
        const std::uint32_t* value = values_.data() + column;
        const bfloat16* weight = weights[0].data();
        const std::byte* ahead = q == 0 && next_values_ != nullptr ? next_values_ + column * value_bytes : nullptr;
        for (Index pair = 0; pair < keys_per_block / 2; ++pair, value += width_, weight += 2) {
            fetch_lines(ahead);
            __m512i x[count];
            unroll<count>([&](auto v) { x[v] = _mm512_loadu_si512(value + vector * v); });
            unroll<rows>([&](auto r) {
                const __m512i w = broadcast_pair(weight + static_cast<Index>(r) * keys_per_block);
                unroll<count>([&](auto v) { sums[r][v] = multiply_add(x[v], w, sums[r][v]); });
            });
        }
        unroll<rows>([&](auto r) {
            float* row = result.sums(q + static_cast<Index>(r)) + column;
            unroll<count>([&](auto v) { sums[r][v].store_unaligned(row + vector * v); });
        });
    }

    Shape shape_;
    Window window_;
    Index width_;
    Index position_ = 0;  // of the first token
    Index tokens_ = 0;
    Index kv_head_ = 0;
    const std::byte* next_keys_ = nullptr;  // of the block that follows
    const std::byte* next_values_ = nullptr;
    MatrixView<std::uint32_t> keys_;    // [width / 2, keys_per_block]: pairs of elements of a key
    MatrixView<std::uint32_t> values_;  // [keys_per_block / 2, width]: pairs of one element of consecutive values
    MatrixView<bfloat16> gathered_;     // [keys_per_block, width]
    MatrixView<bfloat16> queries_;      // [queries, width], scaled so that scores are powers of two
    MatrixView<float> totals_;          // [queries, vector]: sums of 2^(score - maximum) by lane
};

}  // namespace mistral::cpu
#endif

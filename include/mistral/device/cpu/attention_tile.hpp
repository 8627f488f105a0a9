#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/base/window.hpp>
#include <mistral/device/cpu/key_value_run.hpp>
#include <mistral/device/cpu/multiply.hpp>
#include <mistral/device/cpu/partial_attention.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <limits>
#include <span>
#include <type_traits>

namespace mistral::cpu {

inline constexpr Index keys_per_block = 64;

/// The scalar whose packed order the rows of a cache have once they are widened.
template <class C>
using WidenedOrder = std::conditional_t<std::same_as<C, Q8>, float, C>;

/// The key or value of one head -> packed [padded_to_steps(head_dim)], zeros behind the end.
template <class C, class Architecture>
void widen_row(const CachedElement<C>* row, Index head_dim, Activation<C>* packed) {
    if constexpr (std::same_as<C, Q8>) {
        constexpr Index vector = lanes<float, Architecture>;
        const float scale = CachedRow<Q8>::scale(row, head_dim);
        Index i = 0;
        for (; i + vector <= head_dim; i += vector)
            (Batch<float, Architecture>::load_unaligned(row + i) * scale).store_unaligned(packed + i);
        for (; i < head_dim; ++i) packed[i] = static_cast<float>(row[i]) * scale;
        std::fill(packed + head_dim, packed + padded_to_steps<float, Architecture>(head_dim), 0.0f);
    } else {
        widen_packed<C, Architecture>(row, head_dim, packed);
    }
}

/// The attention of the queries of at most tokens_per_tile tokens that share one key/value head, by one worker. C is
/// the cache's scalar.
template <class C, class Architecture>
class AttentionTile {
  public:
    using A = Activation<C>;
    using Order = WidenedOrder<C>;
    using Vector = Batch<A, Architecture>;
    static constexpr Index vector = lanes<A, Architecture>;
    static constexpr Index tokens_per_tile = 8;

    /// head_dim, padded: keys, values, queries and sums are in packed order.
    [[nodiscard]] static Index width(const Shape& shape) {
        return padded_to_steps<Order, Architecture>(shape.head_dim);
    }

    /// Rows that a partial result needs for so many queries.
    [[nodiscard]] static Index padded(Index queries) { return queries; }

    /// Elements of scratch memory that a worker needs.
    [[nodiscard]] static Index scratch_size(const Shape& shape) {
        return 2 * keys_per_block * width(shape) + tokens_per_tile * shape.group() * (width(shape) + keys_per_block);
    }

    AttentionTile(A* scratch, const HeadQueries& place)
        : place_(place), window_{place.shape.window}, width_(width(place.shape)) {
        const Index queries = tokens_per_tile * place.shape.group();
        const auto take = [&scratch](Index rows, Index cols) {
            const MatrixView<A> taken(scratch, rows, cols);
            scratch += rows * cols;
            return taken;
        };
        keys_ = take(keys_per_block, width_);
        values_ = take(keys_per_block, width_);
        queries_ = take(queries, width_);
        scores_ = take(queries, keys_per_block);
    }

    /// queries [tokens, query_heads * head_dim], of which the heads of the tile's kv_head are taken. Comes before
    /// `run`.
    void start(MatrixView<const A> queries) {
        const A scale = A(1) / std::sqrt(static_cast<A>(place_.shape.head_dim));
        for (Index q = 0; q < place_.count(); ++q) {
            pack<Order, Architecture>(queries.row(place_.token(q)) + place_.column(q), place_.shape.head_dim,
                                      queries_.row(q));
            for (Index i = 0; i < width_; ++i) queries_(q, i) *= scale;
        }
    }

    /// The softmax over those of the positions first … last - 1 that the queries see. `first` begins a block.
    void run(std::span<const KeyValueRun<C>> runs, Index first, Index last, PartialAttention<A> result) {
        result.clear(place_.count());
        const Index visible = std::max(first, window_.first_visible(place_.position));
        const Index end = std::min(last, place_.position + place_.tokens);
        for (Index block = visible / keys_per_block * keys_per_block; block < end; block += keys_per_block) {
            const Index from = std::max(block, visible);
            const Index to = std::min(end, block + keys_per_block);
            load(runs, block, from, to);
            score(from - block, to - block);
            for (Index token = 0; token < place_.tokens; ++token) {
                const Index begin = std::max(from, window_.first_visible(place_.position + token));
                const Index behind = std::min(to, place_.position + token + 1);
                if (begin < behind) add_values(token, begin - block, behind - block, result);
            }
        }
    }

    static A power(A x) { return std::exp(x); }

    /// Writes the weighted means to the heads' columns of out [tokens, query_heads * head_dim].
    void finish(PartialAttention<A> result, MatrixView<A> out) {
        for (Index q = 0; q < place_.count(); ++q) {
            A* sums = result.sums(q);
            for (Index i = 0; i < width_; ++i) sums[i] /= result.total(q);
            unpack<Order, Architecture>(sums, place_.shape.head_dim, out.row(place_.token(q)) + place_.column(q));
        }
    }

  private:
    /// Fetches the keys and values of the positions first … last - 1 of the block that begins at `block`.
    void load(std::span<const KeyValueRun<C>> runs, Index block, Index first, Index last) {
        for (const KeyValueRun<C>& run : runs)
            for (Index p = std::max(first, run.position); p < std::min(last, run.position + run.count); ++p) {
                const Index offset = place_.offset(run, p);
                widen_row<C, Architecture>(run.keys + offset, place_.shape.head_dim, keys_.row(p - block));
                widen_row<C, Architecture>(run.values + offset, place_.shape.head_dim, values_.row(p - block));
            }
    }

    /// The scores of the block's keys first … last - 1.
    void score(Index first, Index last) {
        RowBlock<A, Architecture>(keys_, queries_, scores_, Update::assign).run(first, last, 0, place_.count());
    }

    /// Adds the values of the keys from … to - 1 of the block, weighted by the softmax so far, to the token's sums.
    void add_values(Index token, Index from, Index to, PartialAttention<A> result) {
        const Index begin = token * place_.shape.group();
        const Index end = begin + place_.shape.group();
        Index q = begin;
        for (; q + 4 <= end; q += 4) add_values<4>(q, from, to, result);
        for (; q < end; ++q) add_values<1>(q, from, to, result);
    }

    template <int queries>
    void add_values(Index q, Index from, Index to, PartialAttention<A> result) {
        std::array<A, queries> rescale;
        std::array<A*, queries> sums;
        for (std::size_t i = 0; i < rescale.size(); ++i) {
            const Index query = q + static_cast<Index>(i);
            rescale[i] = exponentiate(query, from, to, result.maximum(query), result.total(query));
            sums[i] = result.sums(query);
        }
        Index column = 0;
        for (; column + 2 * vector <= width_; column += 2 * vector)
            add_columns<queries, 2>(q, from, to, column, rescale, sums);
        for (; column < width_; column += vector) add_columns<queries, 1>(q, from, to, column, rescale, sums);
    }

    /// Scores -> exp(score - maximum) with the maximum of all scores so far, zeros outside from … to - 1. Returns what
    /// the sums so far are to be multiplied with.
    A exponentiate(Index q, Index from, Index to, A& maximum_so_far, A& total_so_far) {
        A* scores = scores_.row(q);
        const A maximum = std::max(maximum_so_far, *std::max_element(scores + from, scores + to));
        const A rescale = std::exp(maximum_so_far - maximum);
        std::fill(scores, scores + from, -std::numeric_limits<A>::infinity());
        std::fill(scores + to, scores + keys_per_block, -std::numeric_limits<A>::infinity());
        Vector total(A(0));
        for (Index i = 0; i < keys_per_block; i += vector) {
            const auto weights = exponential(Vector::load_unaligned(scores + i) - Vector(maximum));
            weights.store_unaligned(scores + i);
            total += weights;
        }
        maximum_so_far = maximum;
        total_so_far = total_so_far * rescale + sum(total);
        return rescale;
    }

    template <int queries, int vectors>
    void add_columns(Index q, Index from, Index to, Index column, const std::array<A, queries>& rescale,
                     const std::array<A*, queries>& all_sums) {
        Vector sums[queries][vectors];
        for (int i = 0; i < queries; ++i)
            for (int v = 0; v < vectors; ++v)
                sums[i][v] = Vector::load_unaligned(all_sums[static_cast<std::size_t>(i)] + column + v * vector) *
                             Vector(rescale[static_cast<std::size_t>(i)]);
        for (Index key = from; key < to; ++key)
            for (int v = 0; v < vectors; ++v) {
                const auto value = Vector::load_unaligned(values_.row(key) + column + v * vector);
                for (int i = 0; i < queries; ++i)
                    sums[i][v] = xsimd::fma(Vector(scores_.row(q + i)[key]), value, sums[i][v]);
            }
        for (int i = 0; i < queries; ++i)
            for (int v = 0; v < vectors; ++v)
                sums[i][v].store_unaligned(all_sums[static_cast<std::size_t>(i)] + column + v * vector);
    }

    HeadQueries place_;
    Window window_;
    Index width_;
    MatrixView<A> keys_;     // [keys_per_block, width]
    MatrixView<A> values_;   // [keys_per_block, width]
    MatrixView<A> queries_;  // [queries, width], scaled by 1 / sqrt(head_dim)
    MatrixView<A> scores_;   // [queries, keys_per_block]
};

}  // namespace mistral::cpu

#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/base/window.hpp>
#include <mistral/device/cpu/core_kind.hpp>
#include <mistral/device/cpu/key_value_run.hpp>
#include <mistral/device/cpu/multiply.hpp>
#include <mistral/device/cpu/partial_attention.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <cassert>
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
    static constexpr Index tokens_per_tile = 16;
    static constexpr Index keys_at_once = keys_per_block;

    /// head_dim, padded: keys, values, queries and sums are in packed order.
    [[nodiscard]] static Index width(const Shape& shape) {
        return padded_to_steps<Order, Architecture>(shape.head_dim);
    }

    /// Rows that a partial result needs for so many queries.
    [[nodiscard]] static Index padded(Index queries) { return queries; }

    /// Elements of scratch memory that a worker needs for so many tokens.
    [[nodiscard]] static Index scratch_size(const Shape& shape, Index tokens) {
        return keys_per_block * (2 * width(shape) + value_padding) +
               tokens * shape.group() * (width(shape) + keys_per_block + 1);
    }

    AttentionTile(A* scratch, const HeadQueries& place)
        : place_(place), window_{place.shape.window}, width_(width(place.shape)) {
        const Index queries = place.count();
        const auto take = [&scratch](Index rows, Index cols) {
            const MatrixView<A> taken(scratch, rows, cols);
            scratch += rows * cols;
            return taken;
        };
        keys_ = take(keys_per_block, width_);
        values_ = take(keys_per_block, width_ + value_padding);
        queries_ = take(queries, width_);
        scores_ = take(queries, keys_per_block);
        rescale_ = take(1, queries).row(0);
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
            for (Index token = 0; token < place_.tokens; ++token)
                visible_[static_cast<std::size_t>(token)] = {
                    std::max(from, window_.first_visible(place_.position + token)) - block,
                    std::min(to, place_.position + token + 1) - block};
            if constexpr (!std::same_as<C, Q8>)
                if (place_.tokens == 1 && place_.shape.head_dim == width_) {
                    compute(in_place(runs, block, from, to), result);
                    continue;
                }
            load(runs, block, from, to);
            compute(std::array{Piece<A>{keys_.middle_rows(from - block, to - from),
                                        values_.middle_rows(from - block, to - from), from - block}},
                    result);
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
    /// Rows a power of two apart would share few lines of a cache.
    static constexpr Index value_padding = 64 / sizeof(A);

    /// Keys of a block: first … last - 1.
    struct KeyRange {
        Index first = 0;
        Index last = 0;

        bool operator==(const KeyRange&) const = default;
    };

    /// Keys and values [keys, width] of consecutive keys of a block, from its key `first` on.
    template <class V>
    struct Piece {
        MatrixView<const V> keys;
        MatrixView<const V> values;
        Index first = 0;
    };

    /// The positions first … last - 1 of the block that begins at `block`, widened.
    void load(std::span<const KeyValueRun<C>> runs, Index block, Index first, Index last) {
        for (const KeyValueRun<C>& run : runs)
            for (Index p = std::max(first, run.position); p < std::min(last, run.position + run.count); ++p) {
                const Index offset = place_.offset(run, p);
                widen_row<C, Architecture>(run.keys + offset, place_.shape.head_dim, keys_.row(p - block));
                widen_row<C, Architecture>(run.values + offset, place_.shape.head_dim, values_.row(p - block));
            }
    }

    /// The same where they lie, in up to most_runs pieces: for the queries of one token alone, to widen them first
    /// costs more than it saves.
    static constexpr std::size_t most_runs = 3;
    [[nodiscard]] std::array<Piece<C>, most_runs> in_place(std::span<const KeyValueRun<C>> runs, Index block,
                                                           Index first, Index last) const {
        std::array<Piece<C>, most_runs> pieces;
        assert(runs.size() <= pieces.size());
        for (std::size_t i = 0; i < runs.size(); ++i) {
            const KeyValueRun<C>& run = runs[i];
            const Index p = std::max(first, run.position);
            const Index count = std::min(last, run.position + run.count) - p;
            if (count <= 0) continue;
            const auto rows = [&](const C* memory) {
                return MatrixView<const C>(memory + place_.offset(run, p), count, width_, run.position_stride);
            };
            pieces[i] = {rows(run.keys), rows(run.values), p - block};
        }
        return pieces;
    }

    /// What a block, of which these are all the keys, adds to the softmax so far.
    template <class V, std::size_t count>
    void compute(const std::array<Piece<V>, count>& pieces, PartialAttention<A> result) {
        for (const Piece<V>& piece : pieces) score(piece);
        for (Index q = 0; q < place_.count(); ++q) exponentiate(q, result);
        for (const Piece<V>& piece : pieces) {
            if (piece.values.rows() == 0) continue;
            add_values(piece, result);
            std::fill_n(rescale_, place_.count(), A(1));  // for the pieces that follow
        }
    }

    /// The values of keys where they lie are asked for meanwhile: `add_values` goes through them in an order that the
    /// hardware does not foresee.
    template <class V>
    [[gnu::flatten, gnu::noinline]] void score(const Piece<V>& piece) const {
        const Index keys = piece.keys.rows();
        const MatrixView<A> scores(scores_.data() + piece.first, place_.count(), keys, keys_per_block);
        const auto* beside = std::same_as<V, C> ? piece.values.data() : nullptr;
        RowBlock<V, Architecture, true>(piece.keys, queries_, scores, beside).run(0, keys, 0, place_.count());
    }

    /// Scores -> exp(score - maximum) with the maximum of all scores so far, zeros for keys that are out of sight.
    void exponentiate(Index q, PartialAttention<A> result) {
        const auto [from, to] = visible(place_.token(q));
        A& rescale = rescale_[q];
        rescale = A(1);
        if (from >= to) return;
        A* scores = scores_.row(q);
        std::fill(scores, scores + from, -std::numeric_limits<A>::infinity());
        std::fill(scores + to, scores + keys_per_block, -std::numeric_limits<A>::infinity());
        Vector most(result.maximum(q));
        for (Index i = 0; i < keys_per_block; i += vector) most = xsimd::max(most, Vector::load_unaligned(scores + i));
        const A maximum = largest(most);
        rescale = std::exp(result.maximum(q) - maximum);
        Vector total(A(0));
        for (Index i = 0; i < keys_per_block; i += vector) {
            const auto weights = exponential(Vector::load_unaligned(scores + i) - Vector(maximum));
            weights.store_unaligned(scores + i);
            total += weights;
        }
        result.maximum(q) = maximum;
        result.total(q) = result.total(q) * rescale + sum(total);
    }

    /// Adds the values, weighted by the softmax so far, to the sums: a few columns for all queries, which stay in L1
    /// meanwhile, then the next ones.
    template <class V>
    void add_values(const Piece<V>& piece, PartialAttention<A> result) const {
        Index column = 0;
        for (; column + 2 * vector <= width_; column += 2 * vector) add_columns<2>(piece, column, result);
        if constexpr (WeightLanes<V, Architecture>::parts == 1)
            for (; column < width_; column += vector) add_columns<1>(piece, column, result);
    }

    /// Queries that see the same keys, as many in one tile as registers hold the sums of.
    template <int vectors, class V>
    void add_columns(const Piece<V>& piece, Index column, PartialAttention<A> result) const {
        constexpr Index most = 6;
        for (Index token = 0; token < place_.tokens;) {
            const Index first = token;
            const KeyRange keys = visible(first);
            while (token < place_.tokens && visible(token) == keys) ++token;
            for_each_tile<most>(
                first * place_.shape.group(), token * place_.shape.group(),
                [&](auto queries, Index start) { add_tile<queries, vectors>(start, keys, piece, column, result); });
        }
    }

    /// Flattened and by itself, so that at any level of optimisation, whatever surrounds it, the sums are registers.
    template <Index queries, int vectors, class V>
    [[gnu::flatten, gnu::noinline]] void add_tile(Index q, KeyRange keys, const Piece<V>& piece, Index column,
                                                  PartialAttention<A> result) const {
        constexpr std::size_t count = queries * vectors;
        Vector sums[queries][vectors];
        const auto for_each_sum = [&](auto body) {
            unroll<count>([&](auto i) {
                constexpr Index query = i / vectors, v = i % vectors;
                body(sums[query][v], result.sums(q + query) + column + v * vector, rescale_[q + query]);
            });
        };
        for_each_sum(
            [](Vector& sum, const A* memory, A rescale) { sum = Vector::load_unaligned(memory) * Vector(rescale); });
        const Index first = std::max(keys.first, piece.first);
        const V* values = piece.values.data() + (first - piece.first) * piece.values.stride() + column;
        const A* weights = scores_.row(q) + first;
        for (Index key = first; key < std::min(keys.last, piece.first + piece.values.rows()); ++key) {
            const auto value = load_values<vectors>(values);
            unroll<queries>([&](auto i) {
                const std::array<Vector, 1> weight{Vector(weights[Index{i} * keys_per_block])};
                unroll<vectors>(
                    [&](auto v) { sums[i][v] = multiply_add(weight, std::array<Vector, 1>{value[v]}, sums[i][v]); });
            });
            values += piece.values.stride();
            ++weights;
        }
        for_each_sum([](const Vector& sum, A* memory, A) { sum.store_unaligned(memory); });
    }

    /// `vectors` vectors of values in packed order.
    template <int vectors, class V>
    [[nodiscard]] static auto load_values(const V* values) {
        using Lanes = WeightLanes<V, Architecture>;
        constexpr std::size_t parts = Lanes::parts;
        static_assert(vectors % parts == 0);
        std::array<Vector, std::size_t{vectors}> loaded;
        unroll<loaded.size() / parts>([&](auto i) {
            const auto step = Lanes::load(values + Index{i} * Lanes::step);
            unroll<parts>([&](auto p) { loaded[i * parts + p] = step[p]; });
        });
        return loaded;
    }

    [[nodiscard]] static A largest(const Vector& lanes) {
        std::array<A, static_cast<std::size_t>(vector)> values;
        lanes.store_unaligned(values.data());
        return *std::max_element(values.begin(), values.end());
    }

    [[nodiscard]] KeyRange visible(Index token) const { return visible_[static_cast<std::size_t>(token)]; }

    HeadQueries place_;
    Window window_;
    Index width_;
    MatrixView<A> keys_;     // [keys_per_block, width]
    MatrixView<A> values_;   // [keys_per_block, width + value_padding]
    MatrixView<A> queries_;  // [queries, width], scaled by 1 / sqrt(head_dim)
    MatrixView<A> scores_;   // [queries, keys_per_block]
    A* rescale_;             // [queries]: what the sums so far are to be multiplied with
    std::array<KeyRange, static_cast<std::size_t>(tokens_per_tile)> visible_{};
};

}  // namespace mistral::cpu

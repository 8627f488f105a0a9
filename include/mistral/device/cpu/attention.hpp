#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/base/window.hpp>
#include <mistral/device/cpu/multiply.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

/// Sliding-window attention of one chunk of queries over runs of keys and values, with online softmax
/// (arXiv:1805.02867; in blocks as in FlashAttention, arXiv:2205.14135). Blocks of keys begin at absolute positions
/// that are multiples of `keys_per_block`, so that chunks of any size and rings of any capacity give the same bits.
namespace mistral::cpu {

inline constexpr Index keys_per_block = 64;

/// The attention of a few tokens' query heads that share one key/value head, by one worker. A query below is one head
/// of one token; C is the cache's scalar.
template <class C, class Architecture>
class AttentionTile {
  public:
    using A = Activation<C>;
    using Vector = Batch<A, Architecture>;
    static constexpr Index vector = lanes<A, Architecture>;
    static constexpr Index tokens_per_tile = 8;

    /// Elements of scratch memory that a worker needs.
    [[nodiscard]] static Index scratch_size(const Shape& shape) {
        const Index width = padded_to_steps<C, Architecture>(shape.head_dim);
        const Index queries = tokens_per_tile * shape.group();
        return 2 * keys_per_block * width + queries * (2 * width + keys_per_block + 2);
    }

    AttentionTile(A* scratch, const Shape& shape)
        : shape_(shape), window_{shape.window}, width_(padded_to_steps<C, Architecture>(shape.head_dim)) {
        const Index queries = tokens_per_tile * shape.group();
        const auto take = [&scratch](Index rows, Index cols) {
            const MatrixView<A> taken(scratch, rows, cols);
            scratch += rows * cols;
            return taken;
        };
        keys_ = take(keys_per_block, width_);
        values_ = take(keys_per_block, width_);
        queries_ = take(queries, width_);
        sums_ = take(queries, width_);
        scores_ = take(queries, keys_per_block);
        maxima_ = take(1, queries);
        totals_ = take(1, queries);
    }

    /// queries [tokens, query_heads * head_dim] of at most tokens_per_tile tokens, the first at `position`; the result
    /// for the heads of `kv_head` goes to the same columns of out.
    void run(MatrixView<const A> queries, Index position, Index kv_head, std::span<const KeyValueRun<C>> runs,
             MatrixView<A> out) {
        start(queries, kv_head);
        const Index end = position + queries.rows();
        const Index visible = window_.first_visible(position);
        for (Index block = visible / keys_per_block * keys_per_block; block < end; block += keys_per_block) {
            const Index first = std::max(block, visible);
            const Index last = std::min(end, block + keys_per_block);
            load(runs, kv_head, block, first, last);
            score(queries.rows(), first - block, last - block);
            for (Index token = 0; token < queries.rows(); ++token) {
                const Index from = std::max(first, window_.first_visible(position + token));
                const Index to = std::min(last, position + token + 1);
                if (from < to) add_values(token, from - block, to - block);
            }
        }
        finish(kv_head, out);
    }

  private:
    void start(MatrixView<const A> queries, Index kv_head) {
        const A scale = A(1) / std::sqrt(static_cast<A>(shape_.head_dim));
        for (Index token = 0, q = 0; token < queries.rows(); ++token)
            for (Index head = 0; head < shape_.group(); ++head, ++q) {
                const A* query = queries.row(token) + (kv_head * shape_.group() + head) * shape_.head_dim;
                pack<C, Architecture>(query, shape_.head_dim, queries_.row(q));
                for (Index i = 0; i < width_; ++i) queries_(q, i) *= scale;
                std::fill_n(sums_.row(q), width_, A(0));
                maxima_(0, q) = -std::numeric_limits<A>::infinity();
                totals_(0, q) = A(0);
            }
    }

    /// Fetches the keys and values of the positions first … last - 1 of the block that begins at `block`.
    void load(std::span<const KeyValueRun<C>> runs, Index kv_head, Index block, Index first, Index last) {
        for (const KeyValueRun<C>& run : runs)
            for (Index p = std::max(first, run.position); p < std::min(last, run.position + run.count); ++p) {
                const Index offset = kv_head * run.head_stride + (p - run.position) * run.position_stride;
                widen_packed<C, Architecture>(run.keys + offset, shape_.head_dim, keys_.row(p - block));
                widen_packed<C, Architecture>(run.values + offset, shape_.head_dim, values_.row(p - block));
            }
    }

    /// The scores of the block's keys first … last - 1.
    void score(Index tokens, Index first, Index last) {
        RowBlock<A, Architecture>(keys_, queries_, scores_, Update::assign)
            .run(first, last, 0, tokens * shape_.group());
    }

    /// Adds the values of the keys from … to - 1 of the block, weighted by the softmax so far, to the token's sums.
    void add_values(Index token, Index from, Index to) {
        const Index begin = token * shape_.group();
        const Index end = begin + shape_.group();
        Index q = begin;
        for (; q + 4 <= end; q += 4) add_values<4>(q, from, to);
        for (; q < end; ++q) add_values<1>(q, from, to);
    }

    template <int queries>
    void add_values(Index q, Index from, Index to) {
        std::array<A, queries> rescale;
        for (int i = 0; i < queries; ++i) rescale[static_cast<std::size_t>(i)] = exponentiate(q + i, from, to);
        Index column = 0;
        for (; column + 2 * vector <= width_; column += 2 * vector)
            add_columns<queries, 2>(q, from, to, column, rescale);
        for (; column < width_; column += vector) add_columns<queries, 1>(q, from, to, column, rescale);
    }

    /// Scores -> exp(score - maximum) with the maximum of all scores so far, zeros outside from … to - 1. Returns what
    /// the sums so far are to be multiplied with.
    A exponentiate(Index q, Index from, Index to) {
        A* scores = scores_.row(q);
        const A maximum = std::max(maxima_(0, q), *std::max_element(scores + from, scores + to));
        const A rescale = std::exp(maxima_(0, q) - maximum);
        std::fill(scores, scores + from, -std::numeric_limits<A>::infinity());
        std::fill(scores + to, scores + keys_per_block, -std::numeric_limits<A>::infinity());
        Vector total(A(0));
        for (Index i = 0; i < keys_per_block; i += vector) {
            const auto weights = exponential(Vector::load_unaligned(scores + i) - Vector(maximum));
            weights.store_unaligned(scores + i);
            total += weights;
        }
        maxima_(0, q) = maximum;
        totals_(0, q) = totals_(0, q) * rescale + sum(total);
        return rescale;
    }

    template <int queries, int vectors>
    void add_columns(Index q, Index from, Index to, Index column, const std::array<A, queries>& rescale) {
        Vector sums[queries][vectors];
        for (int i = 0; i < queries; ++i)
            for (int v = 0; v < vectors; ++v)
                sums[i][v] = Vector::load_unaligned(sums_.row(q + i) + column + v * vector) *
                             Vector(rescale[static_cast<std::size_t>(i)]);
        for (Index key = from; key < to; ++key)
            for (int v = 0; v < vectors; ++v) {
                const auto value = Vector::load_unaligned(values_.row(key) + column + v * vector);
                for (int i = 0; i < queries; ++i)
                    sums[i][v] = xsimd::fma(Vector(scores_.row(q + i)[key]), value, sums[i][v]);
            }
        for (int i = 0; i < queries; ++i)
            for (int v = 0; v < vectors; ++v) sums[i][v].store_unaligned(sums_.row(q + i) + column + v * vector);
    }

    void finish(Index kv_head, MatrixView<A> out) {
        for (Index token = 0, q = 0; token < out.rows(); ++token)
            for (Index head = 0; head < shape_.group(); ++head, ++q) {
                for (Index i = 0; i < width_; ++i) sums_(q, i) /= totals_(0, q);
                unpack<C, Architecture>(sums_.row(q), shape_.head_dim,
                                        out.row(token) + (kv_head * shape_.group() + head) * shape_.head_dim);
            }
    }

    Shape shape_;
    Window window_;
    Index width_;            // head_dim, padded: keys, values, queries and sums are in packed order
    MatrixView<A> keys_;     // [keys_per_block, width]
    MatrixView<A> values_;   // [keys_per_block, width]
    MatrixView<A> queries_;  // [queries, width], scaled by 1 / sqrt(head_dim)
    MatrixView<A> sums_;     // [queries, width]: values weighted by exp(score - maximum)
    MatrixView<A> scores_;   // [queries, keys_per_block]
    MatrixView<A> maxima_;   // [1, queries]
    MatrixView<A> totals_;   // [1, queries]: sums of exp(score - maximum)
};

/// queries [tokens, query_heads * head_dim], the first at `position`; runs hold every position that they see, in
/// order -> out, of the queries' shape.
template <class Architecture, class C, class Workspace>
void attend(ThreadPool& pool, MatrixView<const Activation<C>> queries, Index position,
            std::span<const KeyValueRun<C>> runs, const Shape& shape, MatrixView<Activation<C>> out,
            Workspace& workspace) {
    using Tile = AttentionTile<C, Architecture>;
    auto frame = workspace.frame();
    const auto scratch = frame.template matrix<Activation<C>>(pool.threads(), Tile::scratch_size(shape));
    constexpr Index tokens_per_tile = Tile::tokens_per_tile;
    const Index tiles = (queries.rows() + tokens_per_tile - 1) / tokens_per_tile;
    pool.for_each(shape.kv_heads * tiles, [&](Index worker, Index i) noexcept {
        const Index token = i % tiles * tokens_per_tile;
        const Index tokens = std::min(tokens_per_tile, queries.rows() - token);
        Tile(scratch.row(worker), shape)
            .run(queries.middle_rows(token, tokens), position + token, i / tiles, runs, out.middle_rows(token, tokens));
    });
}

}  // namespace mistral::cpu

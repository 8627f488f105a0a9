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
/// (arXiv:1805.02867; in blocks as in FlashAttention, arXiv:2205.14135). Spans of keys are summed each by itself and
/// then joined in their order. Blocks and spans begin at absolute positions that are multiples of their lengths, so
/// that chunks of any size, rings of any capacity and any number of threads give the same bits.
namespace mistral::cpu {

inline constexpr Index keys_per_block = 64;
inline constexpr Index keys_per_span = 1024;

/// What the softmax over some of the keys comes to, for a number of queries: the sums of values weighted by
/// exp(score - maximum), the sum of these weights, and the maximum.
template <class A>
class PartialAttention {
  public:
    static Index size(Index queries, Index width) { return queries * (width + padding); }

    PartialAttention(A* memory, Index queries, Index width) : rows_(memory, queries, width + padding), width_(width) {}

    [[nodiscard]] A* sums(Index query) const { return rows_.row(query); }
    [[nodiscard]] A& total(Index query) const { return rows_(query, width_); }
    [[nodiscard]] A& maximum(Index query) const { return rows_(query, width_ + 1); }

    /// The softmax over no keys.
    void clear(Index queries) const {
        for (Index q = 0; q < queries; ++q) {
            std::fill_n(sums(q), width_, A(0));
            total(q) = A(0);
            maximum(q) = std::numeric_limits<A>::lowest();  // finite: its distance to itself is a number
        }
    }

    /// Takes in the softmax over the keys that follow. power(x) is e^x, or that of the base that scores are for.
    template <class Power>
    void join(const PartialAttention& next, Index queries, Power power) const {
        for (Index q = 0; q < queries; ++q) {
            const A larger = std::max(maximum(q), next.maximum(q));
            const A mine = power(maximum(q) - larger);
            const A others = power(next.maximum(q) - larger);
            std::transform(sums(q), sums(q) + width_ + 1, next.sums(q), sums(q),
                           [=](A a, A b) { return a * mine + b * others; });  // the totals, too, which follow
            maximum(q) = larger;
        }
    }

  private:
    static constexpr Index padding = 64 / sizeof(A);  // rows begin where cache lines do

    MatrixView<A> rows_;  // [queries, width + padding]: sums, total, maximum
    Index width_;
};

/// The attention of a few tokens' query heads that share one key/value head, by one worker. A query below is one head
/// of one token; C is the cache's scalar.
template <class C, class Architecture>
class AttentionTile {
  public:
    using A = Activation<C>;
    using Vector = Batch<A, Architecture>;
    static constexpr Index vector = lanes<A, Architecture>;
    static constexpr Index tokens_per_tile = 8;

    /// head_dim, padded: keys, values, queries and sums are in packed order.
    [[nodiscard]] static Index width(const Shape& shape) { return padded_to_steps<C, Architecture>(shape.head_dim); }

    /// Elements of scratch memory that a worker needs.
    [[nodiscard]] static Index scratch_size(const Shape& shape) {
        return 2 * keys_per_block * width(shape) + tokens_per_tile * shape.group() * (width(shape) + keys_per_block);
    }

    AttentionTile(A* scratch, const Shape& shape) : shape_(shape), window_{shape.window}, width_(width(shape)) {
        const Index queries = tokens_per_tile * shape.group();
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

    /// queries [tokens, query_heads * head_dim] of at most tokens_per_tile tokens, the first at `position`, of which
    /// the heads of `kv_head` are taken.
    void start(MatrixView<const A> queries, Index position, Index kv_head) {
        position_ = position;
        tokens_ = queries.rows();
        kv_head_ = kv_head;
        const A scale = A(1) / std::sqrt(static_cast<A>(shape_.head_dim));
        for (Index q = 0; q < tokens_ * shape_.group(); ++q) {
            pack<C, Architecture>(queries.row(q / shape_.group()) + column(q), shape_.head_dim, queries_.row(q));
            for (Index i = 0; i < width_; ++i) queries_(q, i) *= scale;
        }
    }

    /// The softmax over those of the positions first … last - 1 that the queries see. `first` begins a block.
    void run(std::span<const KeyValueRun<C>> runs, Index first, Index last, PartialAttention<A> result) {
        result.clear(tokens_ * shape_.group());
        const Index visible = std::max(first, window_.first_visible(position_));
        const Index end = std::min(last, position_ + tokens_);
        for (Index block = visible / keys_per_block * keys_per_block; block < end; block += keys_per_block) {
            const Index from = std::max(block, visible);
            const Index to = std::min(end, block + keys_per_block);
            load(runs, block, from, to);
            score(from - block, to - block);
            for (Index token = 0; token < tokens_; ++token) {
                const Index begin = std::max(from, window_.first_visible(position_ + token));
                const Index behind = std::min(to, position_ + token + 1);
                if (begin < behind) add_values(token, begin - block, behind - block, result);
            }
        }
    }

    static A power(A x) { return std::exp(x); }

    /// Writes the weighted means to the heads' columns of out [tokens, query_heads * head_dim].
    void finish(PartialAttention<A> result, MatrixView<A> out) {
        for (Index q = 0; q < tokens_ * shape_.group(); ++q) {
            A* sums = result.sums(q);
            for (Index i = 0; i < width_; ++i) sums[i] /= result.total(q);
            unpack<C, Architecture>(sums, shape_.head_dim, out.row(q / shape_.group()) + column(q));
        }
    }

  private:
    /// Where the query's head begins in a token's row.
    [[nodiscard]] Index column(Index q) const {
        return (kv_head_ * shape_.group() + q % shape_.group()) * shape_.head_dim;
    }

    /// Fetches the keys and values of the positions first … last - 1 of the block that begins at `block`.
    void load(std::span<const KeyValueRun<C>> runs, Index block, Index first, Index last) {
        for (const KeyValueRun<C>& run : runs)
            for (Index p = std::max(first, run.position); p < std::min(last, run.position + run.count); ++p) {
                const Index offset = kv_head_ * run.head_stride + (p - run.position) * run.position_stride;
                widen_packed<C, Architecture>(run.keys + offset, shape_.head_dim, keys_.row(p - block));
                widen_packed<C, Architecture>(run.values + offset, shape_.head_dim, values_.row(p - block));
            }
    }

    /// The scores of the block's keys first … last - 1.
    void score(Index first, Index last) {
        RowBlock<A, Architecture>(keys_, queries_, scores_, Update::assign)
            .run(first, last, 0, tokens_ * shape_.group());
    }

    /// Adds the values of the keys from … to - 1 of the block, weighted by the softmax so far, to the token's sums.
    void add_values(Index token, Index from, Index to, PartialAttention<A> result) {
        const Index begin = token * shape_.group();
        const Index end = begin + shape_.group();
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

    Shape shape_;
    Window window_;
    Index width_;
    Index position_ = 0;  // of the first token
    Index tokens_ = 0;
    Index kv_head_ = 0;
    MatrixView<A> keys_;     // [keys_per_block, width]
    MatrixView<A> values_;   // [keys_per_block, width]
    MatrixView<A> queries_;  // [queries, width], scaled by 1 / sqrt(head_dim)
    MatrixView<A> scores_;   // [queries, keys_per_block]
};

/// The attention of one chunk: queries [tokens, query_heads * head_dim], the first at `position`; runs hold every
/// position that they see, in order -> out, of the queries' shape.
template <class Architecture, class C>
class ChunkAttention {
  public:
    using A = Activation<C>;

    ChunkAttention(MatrixView<const A> queries, Index position, std::span<const KeyValueRun<C>> runs,
                   const Shape& shape, MatrixView<A> out)
        : queries_(queries),
          position_(position),
          runs_(runs),
          shape_(shape),
          out_(out),
          tiles_((queries.rows() + Tile::tokens_per_tile - 1) / Tile::tokens_per_tile) {}

    /// Heads and tokens are shared out among threads, and the spans of keys where these are too few.
    template <class Workspace>
    void run(ThreadPool& pool, Workspace& workspace) const {
        constexpr Index tasks_per_thread = 4;  // so that threads finish together
        auto frame = workspace.frame();
        const auto scratch = frame.template matrix<A>(pool.threads(), Tile::scratch_size(shape_) + 2 * partial_size());
        const Index tasks = shape_.kv_heads * tiles_;
        if (const Index spans = spans_of(0); tiles_ == 1 && spans > 1 && tasks < tasks_per_thread * pool.threads())
            run_spans(pool, scratch, spans, frame.template matrix<A>(tasks * spans, partial_size()));
        else
            pool.for_each(tasks, [&](Index worker, Index task) noexcept { run_task(task, scratch.row(worker)); });
    }

  private:
    using Tile = AttentionTile<C, Architecture>;
    using Partial = PartialAttention<A>;

    void run_task(Index task, A* scratch) const {
        const Index tile_index = task % tiles_;
        Tile tile = start(tile_index, task / tiles_, scratch);
        const Partial all = partial(scratch + Tile::scratch_size(shape_));
        const Partial next = partial(scratch + Tile::scratch_size(shape_) + partial_size());
        const Index first = first_span(tile_index);
        for (Index span = first; span < first + spans_of(tile_index); ++span) {
            tile.run(runs_, span * keys_per_span, (span + 1) * keys_per_span, span == first ? all : next);
            if (span > first) all.join(next, queries_of(tile_index), Tile::power);
        }
        tile.finish(all, tokens_of(out_, tile_index));
    }

    /// The tokens are one tile. parts [kv_heads * spans, partial_size].
    void run_spans(ThreadPool& pool, MatrixView<A> scratch, Index spans, MatrixView<A> parts) const {
        pool.for_each(parts.rows(), [&](Index worker, Index i) noexcept {
            const Index span = first_span(0) + i % spans;
            start(0, i / spans, scratch.row(worker))
                .run(runs_, span * keys_per_span, (span + 1) * keys_per_span, partial(parts.row(i)));
        });
        pool.for_each(shape_.kv_heads, [&](Index worker, Index head) noexcept {
            const Partial all = partial(parts.row(head * spans));
            for (Index span = 1; span < spans; ++span)
                all.join(partial(parts.row(head * spans + span)), queries_of(0), Tile::power);
            start(0, head, scratch.row(worker)).finish(all, out_);
        });
    }

    [[nodiscard]] Tile start(Index tile_index, Index kv_head, A* scratch) const {
        Tile tile(scratch, shape_);
        tile.start(tokens_of(queries_, tile_index), position_ + first_token(tile_index), kv_head);
        return tile;
    }

    static Index first_token(Index tile) { return tile * Tile::tokens_per_tile; }
    [[nodiscard]] Index last_token(Index tile) const {
        return std::min(queries_.rows(), first_token(tile) + Tile::tokens_per_tile) - 1;
    }
    template <class T>
    [[nodiscard]] MatrixView<T> tokens_of(MatrixView<T> rows, Index tile) const {
        return rows.middle_rows(first_token(tile), last_token(tile) + 1 - first_token(tile));
    }
    [[nodiscard]] Index queries_of(Index tile) const {
        return (last_token(tile) + 1 - first_token(tile)) * shape_.group();
    }

    [[nodiscard]] Index first_span(Index tile) const {
        return Window{shape_.window}.first_visible(position_ + first_token(tile)) / keys_per_span;
    }
    [[nodiscard]] Index spans_of(Index tile) const {
        return (position_ + last_token(tile)) / keys_per_span + 1 - first_span(tile);
    }

    [[nodiscard]] Index partial_queries() const {
        return std::min(queries_.rows(), Tile::tokens_per_tile) * shape_.group();
    }
    [[nodiscard]] Index partial_size() const { return Partial::size(partial_queries(), Tile::width(shape_)); }
    [[nodiscard]] Partial partial(A* memory) const { return {memory, partial_queries(), Tile::width(shape_)}; }

    MatrixView<const A> queries_;
    Index position_;
    std::span<const KeyValueRun<C>> runs_;
    Shape shape_;
    MatrixView<A> out_;
    Index tiles_;  // of tokens
};

}  // namespace mistral::cpu

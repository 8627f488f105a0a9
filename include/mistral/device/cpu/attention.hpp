#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/base/window.hpp>
#include <mistral/device/cpu/attention_tile.hpp>
#include <mistral/device/cpu/attention_tile_avx512_dot.hpp>
#include <mistral/device/cpu/key_value_run.hpp>
#include <mistral/device/cpu/partial_attention.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <span>

/// Sliding-window attention of one chunk of queries over runs of keys and values, with online softmax
/// (arXiv:1805.02867; in blocks as in FlashAttention, arXiv:2205.14135). Spans of keys are summed each by itself and
/// then joined in their order. Blocks and spans begin at absolute positions that are multiples of their lengths, so
/// that chunks of any size, rings of any capacity and any number of threads give the same bits.
namespace mistral::cpu {

inline constexpr Index keys_per_span = 1024;
static_assert(keys_per_span % keys_per_block == 0);

/// The attention of one chunk, cut into tasks.
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
          tiles_(divide_up(queries.rows(), Tile::tokens_per_tile)) {}

    /// Heads and tokens are shared out among threads, and the spans of keys where these are too few.
    template <class Workspace>
    void run(ThreadPool& pool, Workspace& workspace) const {
        constexpr Index tasks_per_thread = 4;  // so that threads finish together
        auto frame = workspace.frame();
        const auto scratch = frame.template matrix<A>(pool.threads(), Tile::scratch_size(shape_) + 2 * partial_size());
        const Index tasks = shape_.kv_heads * tiles_;
        const bool has_idle_threads = tiles_ == 1 && tasks < tasks_per_thread * pool.threads();
        if (!has_idle_threads)
            return pool.for_each(tasks,
                                 [&](Index worker, Index task) noexcept { run_task(task, scratch.row(worker)); });
        // As many as the window may ever touch, so that scratch memory does not grow with the position.
        const Index spans = spans_of(0);
        const Index most = shape_.window == no_window ? spans : (shape_.window + queries_.rows()) / keys_per_span + 2;
        run_spans(pool, scratch, spans, frame.template matrix<A>(tasks * most, partial_size()));
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

    /// The tokens are one tile. parts [kv_heads * spans or more, partial_size].
    void run_spans(ThreadPool& pool, MatrixView<A> scratch, Index spans, MatrixView<A> parts) const {
        pool.for_each(shape_.kv_heads * spans, [&](Index worker, Index i) noexcept {
            const Index span = first_span(0) + i % spans;
            start(0, i / spans, scratch.row(worker))
                .run(runs_, span * keys_per_span, (span + 1) * keys_per_span, partial(parts.row(i)));
        });
        pool.for_each(shape_.kv_heads, [&](Index worker, Index head) noexcept {
            const Partial all = partial(parts.row(head * spans));
            for (Index span = 1; span < spans; ++span)
                all.join(partial(parts.row(head * spans + span)), queries_of(0), Tile::power);
            tile_at(0, head, scratch.row(worker)).finish(all, out_);
        });
    }

    [[nodiscard]] Tile tile_at(Index tile_index, Index kv_head, A* scratch) const {
        const Index first = first_token(tile_index);
        return Tile(scratch, {shape_, position_ + first, last_token(tile_index) + 1 - first, kv_head});
    }
    [[nodiscard]] Tile start(Index tile_index, Index kv_head, A* scratch) const {
        Tile tile = tile_at(tile_index, kv_head, scratch);
        tile.start(tokens_of(queries_, tile_index));
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
        return Tile::padded(std::min(queries_.rows(), Tile::tokens_per_tile) * shape_.group());
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

/// queries [tokens, query_heads * head_dim], the first at `position`; runs hold every position that they see, in
/// order -> out, of the queries' shape.
template <class Architecture, class C, class Workspace>
void attend(ThreadPool& pool, MatrixView<const Activation<C>> queries, Index position,
            std::span<const KeyValueRun<C>> runs, const Shape& shape, MatrixView<Activation<C>> out,
            Workspace& workspace) {
    ChunkAttention<Architecture, C>(queries, position, runs, shape, out).run(pool, workspace);
}

}  // namespace mistral::cpu

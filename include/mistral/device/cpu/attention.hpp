#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/base/window.hpp>
#include <mistral/device/cpu/attention_tile.hpp>
#include <mistral/device/cpu/attention_tile_amx.hpp>
#include <mistral/device/cpu/attention_tile_avx512_dot.hpp>
#include <mistral/device/cpu/key_value_run.hpp>
#include <mistral/device/cpu/partial_attention.hpp>
#include <mistral/device/cpu/tasks.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <span>

/// Sliding-window attention over rolling caches, with online softmax (arXiv:1805.02867; in blocks as in FlashAttention,
/// arXiv:2205.14135). Spans of keys are summed each by itself and then joined in their order. Blocks and spans begin at
/// absolute positions that are multiples of their lengths, so that chunks of any size, rings of any capacity, any
/// number of threads and any sequences beside give the same bits.
namespace mistral::cpu {

inline constexpr Index keys_per_span = 1024;

/// The attention of one sequence's tokens, cut into tasks: one for each key/value head and tile of tokens; or, where
/// the tokens are a single tile, one for each key/value head and span of keys, which are then joined.
template <class Architecture, class C>
class RunAttention {
  public:
    using A = Activation<C>;

    RunAttention() = default;
    RunAttention(MatrixView<const A> queries, MatrixView<const CachedElement<C>> keys,
                 MatrixView<const CachedElement<C>> values, const CachedRun<C>& run, const Shape& shape,
                 MatrixView<A> out)
        : queries_(queries),
          position_(run.position),
          keys_(key_value_runs<C>(keys, values, run, Window{shape.window})),
          shape_(shape),
          out_(out),
          tiles_(divide_up(queries.rows(), Tile::tokens_per_tile)) {}

    /// Elements of scratch memory that a worker needs.
    [[nodiscard]] Index scratch_size() const { return tile_scratch_size() + 2 * partial_size(); }

    [[nodiscard]] Index tokens() const { return queries_.rows(); }
    [[nodiscard]] Index tiles() const { return tiles_; }
    [[nodiscard]] Index tasks() const { return shape_.kv_heads * tiles_; }

    void run(Index task, A* scratch) const {
        const Index tile_index = task % tiles_;
        Tile tile = start(tile_index, task / tiles_, scratch);
        const Partial all = partial(scratch + tile_scratch_size());
        const Partial next = partial(scratch + tile_scratch_size() + partial_size());
        const Index first = first_span(tile_index);
        for (Index span = first; span < first + spans_of(tile_index); ++span) {
            tile.run(keys_, span * keys_per_span, (span + 1) * keys_per_span, span == first ? all : next);
            if (span > first) all.join(next, queries_of(tile_index), Tile::power);
        }
        tile.finish(all, tokens_of(out_, tile_index));
    }

    [[nodiscard]] Index span_tasks() const { return shape_.kv_heads * spans_of(0); }
    /// As many as the window may ever touch, so that scratch memory does not grow with the position.
    [[nodiscard]] Index most_span_tasks() const {
        if (shape_.window == no_window) return span_tasks();
        return shape_.kv_heads * ((shape_.window + queries_.rows()) / keys_per_span + 2);
    }
    [[nodiscard]] Index kv_heads() const { return shape_.kv_heads; }
    [[nodiscard]] Index partial_size() const { return Partial::size(partial_queries(), Tile::width(shape_)); }

    /// parts [most_span_tasks, partial_size or more], of which a task writes its own row.
    void run_span(Index task, A* scratch, MatrixView<A> parts) const {
        const Index span = first_span(0) + task % spans_of(0);
        start(0, task / spans_of(0), scratch)
            .run(keys_, span * keys_per_span, (span + 1) * keys_per_span, partial(parts.row(task)));
    }

    void join_spans(Index kv_head, A* scratch, MatrixView<A> parts) const {
        const Index spans = spans_of(0);
        const Partial all = partial(parts.row(kv_head * spans));
        for (Index span = 1; span < spans; ++span)
            all.join(partial(parts.row(kv_head * spans + span)), queries_of(0), Tile::power);
        tile_at(0, kv_head, scratch).finish(all, out_);
    }

  private:
    using Tile = AttentionTile<C, Architecture>;
    static_assert(keys_per_span % Tile::keys_at_once == 0);
    using Partial = PartialAttention<A>;

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

    /// Of a tile.
    [[nodiscard]] Index most_tokens() const { return std::min(queries_.rows(), Tile::tokens_per_tile); }
    [[nodiscard]] Index tile_scratch_size() const { return Tile::scratch_size(shape_, most_tokens()); }
    [[nodiscard]] Index partial_queries() const { return Tile::padded(most_tokens() * shape_.group()); }
    [[nodiscard]] Partial partial(A* memory) const { return {memory, partial_queries(), Tile::width(shape_)}; }

    MatrixView<const A> queries_;
    Index position_ = 0;
    std::array<KeyValueRun<C>, 3> keys_;
    Shape shape_;
    MatrixView<A> out_;
    Index tiles_ = 0;  // of tokens
};

/// The attention of several sequences, whose tasks are shared out among threads together.
template <class Architecture, class C>
class PassAttention {
  public:
    using A = Activation<C>;
    using Run = RunAttention<Architecture, C>;

    PassAttention(MatrixView<const A> queries, MatrixView<const CachedElement<C>> keys,
                  MatrixView<const CachedElement<C>> values, std::span<const CachedRun<C>> runs, const Shape& shape,
                  MatrixView<A> out)
        : count_(runs.size()) {
        assert(runs.size() <= most_sequences);
        Index row = 0;
        for (std::size_t i = 0; i < count_; ++i) {
            const auto rows = [&](const auto& matrix) { return matrix.middle_rows(row, runs[i].tokens); };
            runs_[i] = Run(rows(queries), rows(keys), rows(values), runs[i], shape, rows(out));
            row += runs[i].tokens;
        }
    }

    /// Spans of keys are tasks of their own where there are too few others for all threads, and few tokens: what each
    /// span comes to takes memory.
    template <class Workspace>
    void run(ThreadPool& pool, Workspace& workspace) const {
        constexpr Index tasks_per_thread = 4;  // so that threads finish together
        constexpr Index few_tokens = 24;
        Index tasks = 0, tiles = 0, tokens = 0, scratch_size = 0;
        for (const Run& run : runs()) {
            tasks += run.tasks();
            tiles = std::max(tiles, run.tiles());
            tokens = std::max(tokens, run.tokens());
            scratch_size = std::max(scratch_size, run.scratch_size());
        }
        auto frame = workspace.frame();
        const auto scratch = frame.template matrix<A>(pool.threads(), scratch_size);
        if (tiles == 1 && tokens <= few_tokens && tasks < tasks_per_thread * pool.threads())
            return run_spans(pool, scratch, frame);
        for_each_task(
            pool, count_, [&](std::size_t i) { return runs_[i].tasks(); },
            [&](std::size_t i, Index worker, Index task) { runs_[i].run(task, scratch.row(worker)); });
    }

  private:
    [[nodiscard]] std::span<const Run> runs() const { return {runs_.data(), count_}; }

    template <class Frame>
    void run_spans(ThreadPool& pool, MatrixView<A> scratch, Frame& frame) const {
        std::array<MatrixView<A>, most_sequences> parts;
        for (std::size_t i = 0; i < count_; ++i)
            parts[i] = frame.template matrix<A>(runs_[i].most_span_tasks(), runs_[i].partial_size());
        const auto span_tasks = [&](std::size_t i) { return runs_[i].span_tasks(); };
        const auto kv_heads = [&](std::size_t i) { return runs_[i].kv_heads(); };
        for_each_task(pool, count_, span_tasks, [&](std::size_t i, Index worker, Index task) {
            runs_[i].run_span(task, scratch.row(worker), parts[i]);
        });
        for_each_task(pool, count_, kv_heads, [&](std::size_t i, Index worker, Index head) {
            runs_[i].join_spans(head, scratch.row(worker), parts[i]);
        });
    }

    std::array<Run, most_sequences> runs_;
    std::size_t count_;
};

/// As the verb `attend` of Device.
template <class Architecture, class C, class Workspace>
void attend(ThreadPool& pool, MatrixView<const Activation<C>> queries, MatrixView<const CachedElement<C>> keys,
            MatrixView<const CachedElement<C>> values, std::span<const CachedRun<C>> runs, const Shape& shape,
            MatrixView<Activation<C>> out, Workspace& workspace) {
    PassAttention<Architecture, C>(queries, keys, values, runs, shape, out).run(pool, workspace);
}

}  // namespace mistral::cpu

#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/device/cpu/dot_tile.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>

namespace mistral::cpu {

/// The same as RowBlock for many tokens, where weights must become activations before they are multiplied: that is done
/// once for all tokens, a few rows at a time, and of these a stretch of inputs that stays in L1 while the tokens pass.
/// From one stretch to the next, sums wait in L2, lane by lane, so that they are those of RowBlock to the last bit.
template <class S, class Architecture>
class WidenedBlock {
  public:
    using A = Activation<S>;

    static constexpr Index least_tokens = 16;  ///< for fewer, to widen once more for each tile costs less
    static constexpr Index most_tokens = 96;   ///< of a task, whose stretches stay in L2 beside the sums
    static constexpr Index tile_tokens = TileSize<A, Architecture>::tokens;
    static constexpr Index row_multiple = 64;

    /// Elements of memory that one thread needs for so many tokens.
    static Index scratch_size(Index tokens) { return panel_rows * stretch + row_multiple * tokens * vector; }

    /// x [tokens, padded_to_steps(inputs)] is packed. Weights [outputs, inputs].
    WidenedBlock(MatrixView<const S> weights, MatrixView<const A> x, MatrixView<A> out, Update update, A* scratch)
        : weights_(weights),
          x_(x),
          out_(out),
          update_(update),
          widened_(scratch),
          sums_(scratch + panel_rows * stretch) {}

    void run(Index first_row, Index last_row, Index first_token, Index last_token) const {
        const Index panel_sums = (last_token - first_token) * panel_rows * vector;
        const auto for_each_panel = [&](Index row, auto body) {
            const Index end = std::min(last_row, row + row_multiple);
            for (A* sums = sums_; row < end; row += panel_rows, sums += panel_sums)
                body(row, std::min(panel_rows, end - row), sums);
        };
        for (Index row = first_row; row < last_row; row += row_multiple) {
            for (Index input = 0; input < weights_.cols(); input += stretch)
                for_each_panel(row, [&](Index first, Index count, A* sums) {
                    widen(first, count, input);
                    multiply(input, first_token, last_token, sums);
                });
            for_each_panel(row, [&](Index first, Index count, const A* sums) {
                write(first, count, first_token, last_token, sums);
            });
        }
    }

  private:
    using Vector = Batch<A, Architecture>;

    static constexpr Index vector = lanes<A, Architecture>;
    static constexpr Index stretch = 256;
    static constexpr Index panel_rows = 16;  // 16 KiB of widened weights
    static constexpr Index tile_rows = 4;

    void widen(Index row, Index count, Index input) const {
        for (Index r = 0; r < count; ++r)
            widen_packed<S, Architecture>(weights_.row(row + r) + input, std::min(stretch, weights_.cols() - input),
                                          widened_ + r * stretch);
    }

    /// Adds the products of a stretch to the sums of a panel.
    void multiply(Index input, Index token, Index last_token, A* sums) const {
        const Index steps = std::min(stretch, padded_to_steps<S, Architecture>(weights_.cols()) - input) / vector;
        for_each_tile<tile_tokens>(token, last_token, [&](auto tokens, Index first) {
            for (Index r = 0; r < panel_rows; r += tile_rows, sums += tile_rows * tokens * vector)
                tile<tokens>(widened_ + r * stretch, x_.row(first) + input, steps, input == 0, sums);
        });
    }

    /// Flattened, so that at any level of optimisation the sums are registers.
    template <Index tokens>
    [[gnu::flatten]] void tile(const A* weights, const A* x, Index steps, bool is_first, A* sums) const {
        DotTile<A, Architecture, tile_rows, tokens> dot;
        const auto for_each_sum = [&](auto body) {
            unroll<tile_rows * tokens>(
                [&](auto i) { body(dot.sums[i / tokens][i % tokens], sums + static_cast<Index>(i) * vector); });
        };
        if (!is_first) for_each_sum([](Vector& sum, const A* memory) { sum = Vector::load_aligned(memory); });
        dot.accumulate(weights, stretch, x, x_.stride(), steps, nullptr, 0);
        for_each_sum([](const Vector& sum, A* memory) { sum.store_aligned(memory); });
    }

    /// The sums of all lanes of a panel's sums, which lie tile after tile: [rows of it, tokens of it, vector].
    void write(Index row, Index count, Index token, Index last_token, const A* sums) const {
        for (; token < last_token; token += tile_tokens) {
            const Index tokens = std::min(tile_tokens, last_token - token);
            for (Index r = 0; r < count; ++r)
                for (Index t = 0; t < tokens; ++t) {
                    const auto sum = Vector::load_aligned(sums + (r * tokens + t) * vector);
                    const A value = LaneSums<A, Architecture>::of(std::array<Vector, 1>{sum})[0];
                    A& out = out_(token + t, row + r);
                    out = update_ == Update::add ? out + value : value;
                }
            sums += panel_rows * tokens * vector;
        }
    }

    MatrixView<const S> weights_;
    MatrixView<const A> x_;
    MatrixView<A> out_;
    Update update_;
    A* widened_;  // [panel_rows, stretch]
    A* sums_;     // of one panel after the other
};

}  // namespace mistral::cpu

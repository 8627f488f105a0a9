#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/dot_tile.hpp>
#include <mistral/device/cpu/prefetching.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <cstddef>

namespace mistral::cpu {

/// out(t, r) = or += the dot product of x's row t and the weights' row r, for r in first_row … last_row - 1.
/// x [tokens, padded_to_steps(inputs)] is packed. Weights [outputs, inputs].
template <class S, class Architecture>
class RowBlock {
  public:
    using A = Activation<S>;
    using Lanes = WeightLanes<S, Architecture>;
    using Packed = typename Lanes::Packed;

    RowBlock(MatrixView<const S> weights, MatrixView<const Packed> x, MatrixView<A> out, Update update,
             Prefetching prefetching)
        : weights_(weights),
          x_(x),
          out_(out),
          update_(update),
          prefetching_(prefetching),
          steps_(weights.cols() / Lanes::step) {}

    /// The tokens in as few tiles as hold them, all about equally large.
    void run(Index first_row, Index last_row, Index first_token, Index last_token) const {
        constexpr Index most = TileSize<S, Architecture>::tokens;
        const Index tokens = last_token - first_token;
        if (tokens == 0) return;
        const Index tiles = divide_up(tokens, most);
        tiles_of<static_cast<int>(most)>(tokens, tiles, first_row, last_row, first_token);
    }

  private:
    /// Tiles of `most` tokens or one fewer, of the largest `most` that leaves none of them empty.
    template <int most>
    void tiles_of(Index tokens, Index tiles, Index first_row, Index last_row, Index first_token) const {
        if constexpr (most > 1)
            if (tokens <= (most - 1) * tiles)
                return tiles_of<most - 1>(tokens, tiles, first_row, last_row, first_token);
        constexpr int rows = TileSize<S, Architecture>::rows(most);
        const Index large = tokens - (most - 1) * tiles;
        Index row = first_row;
        if constexpr (most == 1)
            if (tiles == 1 && prefetching_ == Prefetching::hardware &&
                TileSize<S, Architecture>::takes_single_rows(x_.cols() * Index{sizeof(Packed)}))
                for (; row < last_row; ++row) tile<1, 1>(row, first_token, {});
        for (; row + rows <= last_row; row += rows) row_of_tiles<rows, most>(row, first_token, tiles, large);
        for (; row + 2 <= last_row; row += 2) row_of_tiles<2, most>(row, first_token, tiles, large);
        if (row < last_row) row_of_tiles<1, most>(row, first_token, tiles, large);
    }

    /// What a tile asks memory for beside every step: a few times for a line where steps are shorter, since a test for
    /// that takes Clang a register, and with AVX2 a sum.
    struct Fetching {
        const std::byte* next = nullptr;  ///< lines of the rows that follow
        int lines = 0;                    ///< so many of them
        bool own_rows = false;            ///< what is near in the tile's own
    };

    /// `rows` rows with all tokens, of which the first `large` tiles have `most` and the others one fewer. Where
    /// software fetches, a tile that has all tokens asks for what is near in its own rows. Otherwise tiles of several
    /// tokens share the lines of the rows that follow, evenly, since many at once hold up what is wanted now; one token
    /// alone asks for nothing: the hardware sees what comes next.
    template <int rows, int most>
    void row_of_tiles(Index row, Index token, Index tiles, Index large) const {
        const Index row_bytes = weights_.stride() * static_cast<Index>(sizeof(S));
        Fetching fetching{.next = reinterpret_cast<const std::byte*>(weights_.row(row)) + rows * row_bytes,
                          .own_rows = tiles == 1 && prefetching_ == Prefetching::software};
        for (Index i = 0; i < tiles; ++i) {
            if (TileSize<S, Architecture>::fetches_ahead && most > 1 && !fetching.own_rows)
                fetching.lines = static_cast<int>(rows / tiles + (i < rows % tiles ? 1 : 0));
            if (i < large) {
                tile<rows, most>(row, token, fetching);
                token += most;
            } else if constexpr (most > 1) {
                tile<rows, most - 1>(row, token, fetching);
                token += most - 1;
            }
            fetching.next += fetching.lines * row_bytes;
        }
    }

    /// Flattened, so that at any level of optimisation the sums are registers. What is fetched has loops of its own,
    /// since a branch in every step costs.
    template <int rows, int tokens>
    [[gnu::flatten]] void tile(Index row, Index token, Fetching fetching) const {
        DotTile<S, Architecture, rows, tokens> dot;
        const S* weights = weights_.row(row);
        const Packed* x = x_.row(token);
        if (fetching.own_rows)
            dot.accumulate(weights, weights_.stride(), x, x_.stride(), steps_, [&](const S* now) {
                constexpr Index bytes_ahead = 512;
                for (Index r = 0; r < rows; ++r)
                    prefetch<1>(reinterpret_cast<const std::byte*>(now + r * weights_.stride()) + bytes_ahead);
            });
        else if (fetching.lines > 0)
            dot.accumulate(weights, weights_.stride(), x, x_.stride(), steps_, [&](const S*) {
                for (int i = 0; i < fetching.lines; ++i, fetching.next += cache_line) prefetch(fetching.next);
            });
        else
            dot.accumulate(weights, weights_.stride(), x, x_.stride(), steps_, [](const S*) {});
        if (const Index done = steps_ * Lanes::step; done < weights_.cols()) {
            std::array<S, static_cast<std::size_t>(rows * Lanes::step)> last{};
            for (Index r = 0; r < rows; ++r)
                std::copy_n(weights + r * weights_.stride() + done, weights_.cols() - done,
                            last.data() + r * Lanes::step);
            dot.add(last.data(), Lanes::step, x + done, x_.stride());
        }
        unroll<tokens>([&](auto t) {
            constexpr std::size_t fours = rows / 4;
            A* const to = &out_(token + static_cast<Index>(t), row);
            unroll<fours>([&](auto i) { write<4 * i, 4>(dot, t, to); });
            unroll<rows % 4>([&](auto i) { write<4 * fours + i, 1>(dot, t, to); });
        });
    }

    /// The dot products of `count` rows from `first` on with the tile's token t.
    template <std::size_t first, std::size_t count, class Tile>
    void write(const Tile& dot, std::size_t t, A* out) const {
        std::array<Batch<A, Architecture>, count> vectors;
        unroll<count>([&](auto i) { vectors[i] = dot.sums[first + i][t]; });
        const auto values = LaneSums<A, Architecture>::of(vectors);
        for (std::size_t i = 0; i < count; ++i)
            out[first + i] = update_ == Update::add ? out[first + i] + values[i] : values[i];
    }

    MatrixView<const S> weights_;
    MatrixView<const Packed> x_;
    MatrixView<A> out_;
    Update update_;
    Prefetching prefetching_;
    Index steps_;
};

}  // namespace mistral::cpu

#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/core_kind.hpp>
#include <mistral/device/cpu/dot_tile.hpp>
#include <mistral/device/cpu/prefetch.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

namespace mistral::cpu {

/// out(t, r) = or += the dot product of x's row t and the weights' row r, for r in first_row … last_row - 1.
/// x [tokens, padded_to_steps(inputs)] is packed. Weights [outputs, inputs]. Short rows, which lie in L1, are
/// multiplied as a part of the caller, since calls would take a fifth of the time: it must be flattened.
template <class S, class Architecture, bool short_rows = false>
class RowBlock {
  public:
    using A = Activation<S>;
    using Lanes = WeightLanes<S, Architecture>;
    using Packed = typename Lanes::Packed;
    using Size = TileSize<S, Architecture>;

    RowBlock(MatrixView<const S> weights, MatrixView<const Packed> x, MatrixView<A> out, Update update,
             CoreKind core_kind)
        : weights_(weights),
          x_(x),
          out_(out),
          update_(update),
          core_kind_(core_kind),
          steps_(weights.cols() / Lanes::step) {}

    /// Short rows, which are whole steps. Where `beside` is given, as many bytes from there on as the rows are long are
    /// asked for meanwhile, evenly.
    RowBlock(MatrixView<const S> weights, MatrixView<const Packed> x, MatrixView<A> out,
             const S* beside) requires short_rows : RowBlock(weights, x, out, Update::assign, CoreKind::common) {
        beside_ = beside;
    }

    /// The tokens in as few tiles as hold them, all about equally large. Whether rows come from memory, or from a cache
    /// where a block of other tokens left them, decides how they are fetched.
    void run(Index first_row, Index last_row, Index first_token, Index last_token, bool from_memory = true) const {
        const Index tokens = last_token - first_token;
        if (tokens == 0) return;
        const Index tiles = divide_up(tokens, Index{Size::tokens});
        with_even_tiles<Size::tokens>(tokens, tiles, [&](auto most, Index large) {
            const auto row_of_all = [&](auto rows, Index row) {
                row_of_tiles<rows, most>(row, first_token, tiles, large, from_memory);
            };
            if (tiles == 1 && Size::takes_single_rows(core_kind_, most, x_.cols() * Index{sizeof(Packed)}))
                for_each_tile_of_rows<1>(first_row, last_row, row_of_all);
            else
                for_each_tile_of_rows<Size::rows(most)>(first_row, last_row, row_of_all);
        });
    }

    /// Which of the pieces of the inputs these are, and where the sums [sums_of(rows, tokens)] of those before lie.
    struct Piece {
        A* sums;
        bool is_first;
        bool is_last;
    };

    /// The same where rows and inputs are a piece of all: one tile's tokens, which stay in L1 meanwhile, with all rows,
    /// then the next. Only the last piece writes, those before keep their sums. Calls before_tile() before every tile
    /// of tokens.
    template <class Before>
    void run_piece(Index first_token, Index last_token, Piece piece, Before before_tile) const {
        const Index all = last_token - first_token;
        const Index tiles = divide_up(all, Index{Size::tokens});
        with_even_tiles<Size::tokens>(all, tiles, [&](auto most, Index large) {
            Index token = first_token;
            for_each_even_tile<most>(tiles, large, [&](auto tokens) {
                before_tile();
                column_of_tiles<tokens>(token, piece);
                token += tokens;
                piece.sums += sums_of(weights_.rows(), tokens);
            });
        });
    }

    static constexpr Index sums_of(Index rows, Index tokens) { return rows * tokens * vector; }

  private:
    static constexpr Index vector = lanes<A, Architecture>;

    /// Calls body(count, row) for tiles of `most` rows, and of two and one that are left, of short rows of one: these
    /// are left seldom, and a tile more takes long to compile. count is a constant.
    template <int most, class Body>
    static void for_each_tile_of_rows(Index row, Index last, const Body& body) {
        for (; row + most <= last; row += most) body(std::integral_constant<int, most>{}, row);
        if constexpr (most > 2 && !short_rows)
            for (; row + 2 <= last; row += 2) body(std::integral_constant<int, 2>{}, row);
        if constexpr (most > 1)
            for (; row < last; ++row) body(std::integral_constant<int, 1>{}, row);
    }

    /// What a tile asks memory for beside every step: a few times for a line where steps are shorter, since a test for
    /// that takes Clang a register, and with AVX2 a sum.
    struct Fetching {
        Index bytes_ahead = 0;            ///< so far behind what it multiplies now of each of its rows; 0 for nothing
        const std::byte* next = nullptr;  ///< or lines from here on, such as of the rows that follow,
        int lines = 0;                    ///< so many
    };

    /// `rows` rows with all tokens, of which the first `large` tiles have `most` and the others one fewer. Several
    /// tiles share the lines of the rows that follow, evenly, since many at once hold up what is wanted now.
    template <int rows, int most>
    void row_of_tiles(Index row, Index token, Index tiles, Index large, bool from_memory) const {
        if constexpr (short_rows) return short_row_of_tiles<rows, most>(row, token, tiles, large);
        const Index row_bytes = weights_.stride() * static_cast<Index>(sizeof(S));
        Fetching fetching{.bytes_ahead = tiles == 1 ? Size::bytes_ahead(core_kind_, rows) : 0,
                          .next = reinterpret_cast<const std::byte*>(weights_.row(row)) + rows * row_bytes};
        const bool shares_next = fetching.bytes_ahead == 0 && Size::fetches_next_rows(core_kind_, most, from_memory);
        Index done = 0;
        for_each_even_tile<most>(tiles, large, [&](auto tokens) {
            if (shares_next) fetching.lines = static_cast<int>(rows / tiles + (done++ < rows % tiles ? 1 : 0));
            tile<rows, tokens>(row, token, fetching);
            token += tokens;
            fetching.next += fetching.lines * row_bytes;
        });
    }

    /// The same of short rows, whose tiles share the lines beside them.
    template <int rows, int most>
    void short_row_of_tiles(Index row, Index token, Index tiles, Index large) const {
        constexpr int lines = rows * static_cast<int>(Lanes::step * Index{sizeof(S)}) / static_cast<int>(cache_line);
        Fetching fetching;
        if (beside_ != nullptr) fetching.next = reinterpret_cast<const std::byte*>(beside_ + row * weights_.cols());
        Index done = 0;
        for_each_even_tile<most>(tiles, large, [&](auto tokens) {
            if (beside_ != nullptr) fetching.lines = static_cast<int>(lines / tiles + (done++ < lines % tiles ? 1 : 0));
            short_tile<rows, tokens>(row, token, fetching);
            token += tokens;
        });
    }

    /// So many tokens with all rows.
    template <int tokens>
    void column_of_tiles(Index token, const Piece& piece) const {
        for_each_tile_of_rows<Size::rows(tokens)>(0, weights_.rows(), [&](auto rows, Index row) {
            piece_of_tile<rows, tokens>(row, token, {piece.sums + sums_of(row, tokens), piece.is_first, piece.is_last});
        });
    }

    /// Flattened and by itself, so that at any level of optimisation the sums are registers: GCC forgets that it is to
    /// be flattened where it makes it a part of another function. What is fetched has loops of its own, since a branch
    /// in every step costs.
    template <int rows, int tokens>
    [[gnu::flatten, gnu::noinline]] void tile(Index row, Index token, Fetching fetching) const {
        DotTile<S, Architecture, rows, tokens> dot;
        const S* weights = weights_.row(row);
        const Packed* x = x_.row(token);
        if (fetching.bytes_ahead > 0)
            dot.accumulate(weights, weights_.stride(), x, x_.stride(), steps_, [&](const S* now) {
                for (Index r = 0; r < rows; ++r)
                    prefetch<1>(reinterpret_cast<const std::byte*>(now + r * weights_.stride()) + fetching.bytes_ahead);
            });
        else if (fetching.lines > 0)
            dot.accumulate(weights, weights_.stride(), x, x_.stride(), steps_, [&](const S*) {
                for (int i = 0; i < fetching.lines; ++i, fetching.next += cache_line) prefetch(fetching.next);
            });
        else
            dot.accumulate(weights, weights_.stride(), x, x_.stride(), steps_, [](const S*) {});
        finish(dot, row, token);
    }

    template <int rows, int tokens>
    [[gnu::flatten]] void short_tile(Index row, Index token, Fetching& fetching) const {
        DotTile<S, Architecture, rows, tokens> dot;
        dot.accumulate(weights_.row(row), weights_.stride(), x_.row(token), x_.stride(), steps_, [&](const S*) {
            for (int i = 0; i < fetching.lines; ++i, fetching.next += cache_line) prefetch(fetching.next);
        });
        finish(dot, row, token);
    }

    template <int rows, int tokens>
    [[gnu::flatten, gnu::noinline]] void piece_of_tile(Index row, Index token, Piece piece) const {
        DotTile<S, Architecture, rows, tokens> dot;
        if (!piece.is_first) dot.load(piece.sums);
        dot.accumulate(weights_.row(row), weights_.stride(), x_.row(token), x_.stride(), steps_, [](const S*) {});
        if (piece.is_last)
            finish(dot, row, token);
        else
            dot.store(piece.sums);
    }

    /// Adds the inputs that are no whole step, and writes the sums.
    template <std::size_t rows, std::size_t tokens>
    void finish(DotTile<S, Architecture, rows, tokens>& dot, Index row, Index token) const {
        if (const Index done = steps_ * Lanes::step; done < weights_.cols()) {
            std::array<S, rows * std::size_t{Lanes::step}> last{};
            for (std::size_t r = 0; r < rows; ++r) {
                const S* const from = weights_.row(row + static_cast<Index>(r));
                std::copy(from + done, from + weights_.cols(), last.data() + r * std::size_t{Lanes::step});
            }
            dot.add(last.data(), Lanes::step, x_.row(token) + done, x_.stride());
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
    CoreKind core_kind_;
    Index steps_;
    const S* beside_ = nullptr;
};

}  // namespace mistral::cpu

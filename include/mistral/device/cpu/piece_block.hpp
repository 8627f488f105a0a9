#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/cpu/core_kind.hpp>
#include <mistral/device/cpu/dot_tile.hpp>
#include <mistral/device/cpu/prefetch.hpp>
#include <mistral/device/cpu/row_block.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <type_traits>

namespace mistral::cpu {

/// The products of a block of rows and tokens, out(t, r) = or += the dot product of x's row t and the weights' row r,
/// by pieces of inputs, each for all tokens before the next. Rows that are to be widened are so once for all of them, a
/// few at a time, which then stay in L1 while tokens pass. Every sum is that of RowBlock, bit for bit.
template <class S, class Architecture>
class PieceBlock {
    using A = Activation<S>;
    using Packed = typename WeightLanes<S, Architecture>::Packed;
    static constexpr bool widens = TileSize<S, Architecture>::widens;
    using Weight = std::conditional_t<widens, A, S>;  // of a piece
    using Block = RowBlock<Weight, Architecture>;
    using Size = TileSize<Weight, Architecture>;

  public:
    static constexpr Index most_tokens = 64;  // their pieces stay in L2, and so do the block's sums
    static constexpr Index most_rows = 128;
    /// Elements of scratch memory that a worker needs.
    static constexpr Index scratch_size() { return most_sums + (widens ? rows_at_once * row_stride : 0); }

    /// x [tokens, padded_to_steps(inputs)] is packed. Weights [outputs, inputs].
    PieceBlock(MatrixView<const S> weights, MatrixView<const Packed> x, MatrixView<A> out, Update update)
        : weights_(weights), x_(x), out_(out), update_(update) {}

    /// scratch [scratch_size()].
    void run(Index first_row, Index last_row, Index first_token, Index last_token, A* scratch) const {
        const Index inputs = weights_.cols();
        Index input = 0;
        do {
            const Index count = std::min(piece_inputs, inputs - input);
            typename Block::Piece piece{scratch, input == 0, input + count == inputs};
            for (Index row = first_row; row < last_row; row += rows_at_once) {
                const Index rows = std::min(rows_at_once, last_row - row);
                PieceFetch ahead(row + rows < last_row ? memory_of(row + rows, last_row, input)
                                                       : memory_of(first_row, last_row, input + count),
                                 divide_up(last_token - first_token, Index{Size::tokens}));
                const auto weights = prepare(weights_.middle_rows(row, rows).middle_cols(input, count), scratch);
                Block(weights, x_.middle_cols(input, x_.cols() - input), out_.middle_cols(row, rows), update_,
                      CoreKind::common)
                    .run_piece(first_token, last_token, piece, [&] { ahead.fetch_some(); });
                piece.sums += Block::sums_of(rows, last_token - first_token);
            }
            input += count;
        } while (input < inputs);
    }

  private:
    // Of a row: a tile's rows and tokens fit into L1.
    static constexpr Index piece_bytes = sizeof(Weight) == 4 ? 2048 : 4096;
    static constexpr Index piece_inputs = piece_bytes / Index{sizeof(Weight)};
    static constexpr Index rows_at_once = widens ? Index{Size::rows(Size::tokens)} : most_rows;
    static constexpr Index row_stride = piece_inputs + cache_line / Index{sizeof(A)};  // else they share few lines
    static constexpr Index most_sums = Block::sums_of(most_rows, most_tokens);

    /// Of the rows from `row` on that are widened together, the piece from `input` on; nothing where rows stay where
    /// they are: those come with the first tokens.
    [[nodiscard]] MemoryPieces memory_of(Index row, Index last_row, Index input) const {
        if (!widens || input >= weights_.cols()) return {};
        constexpr Index size = sizeof(S);
        return {reinterpret_cast<const std::byte*>(weights_.row(row) + input), std::min(rows_at_once, last_row - row),
                std::min(piece_inputs, weights_.cols() - input) * size, weights_.stride() * size};
    }

    /// Rows of a piece as they are multiplied: where they lie, or widened to whole steps behind the sums.
    static MatrixView<const Weight> prepare(MatrixView<const S> rows, A* scratch) {
        if constexpr (widens) {
            const MatrixView<A> widened(scratch + most_sums, rows.rows(), padded_to_steps<S, Architecture>(rows.cols()),
                                        row_stride);
            for (Index r = 0; r < rows.rows(); ++r)
                widen_packed<S, Architecture>(rows.row(r), rows.cols(), widened.row(r));
            return widened;
        } else {
            return rows;
        }
    }

    MatrixView<const S> weights_;
    MatrixView<const Packed> x_;
    MatrixView<A> out_;
    Update update_;
};

}  // namespace mistral::cpu

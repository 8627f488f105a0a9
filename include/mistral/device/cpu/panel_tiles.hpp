#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>
#include <mistral/device/cpu/prefetch.hpp>
#include <mistral/device/cpu/quad_lanes.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/cpu/token_group.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <type_traits>

namespace mistral::cpu {

/// The sums of a panel's rows with a token, which lie side by side, to out [tokens, outputs].
template <class Architecture>
void write_panel(const float* sums, Index panel, Index token, MatrixView<float> out, Update update) {
    constexpr Index rows = PackedMatrix<Q8>::panel_rows;
    static_assert(rows == PackedMatrix<Q4>::panel_rows);
    float* const to = out.row(token) + panel * rows;
    const auto write = [&](auto count) {
        for (Index r = 0; r < count; ++r) to[r] = update == Update::add ? to[r] + sums[r] : sums[r];
    };
    if (const Index left = out.cols() - panel * rows; left < rows)
        write(left);
    else
        write(std::integral_constant<Index, rows>{});
}

/// The products of groups of panels, in the order of Q, with quantised tokens [tokens, groups], in registers.
template <QuantizedScalar Q, class Architecture, class Group>
class PanelTiles {
  public:
    using Matrix = PackedMatrix<Q>;

    PanelTiles(MatrixView<const Group> x, MatrixView<float> out, Update update, const PanelReading& reading)
        : x_(x), out_(out), update_(update), reading_(reading) {}

    /// Consecutive groups of `panels` panels.
    template <std::size_t panels = 1>
    struct Piece {
        std::array<Index, panels> panel{};
        std::array<const std::byte*, panels> codes{};  ///< where the first group of each begins
        Index first = 0;                               ///< of the panel's groups
        Index count = 0;
        bool is_last = true;              ///< behind which there are no more groups
        float* sums = nullptr;            ///< [tokens, panel_rows], of the groups before, for those that follow
        const std::byte* next = nullptr;  ///< what is wanted from memory next, for each group of these
        Index next_lines = 0;             ///< so much
    };

    /// The only token.
    template <std::size_t panels>
    void run_alone(const Piece<panels>& piece) const {
        tile<1, panels>(0, piece);
    }

    /// The tokens in as few tiles as hold them, all about equally large. Each fetches a part of what is wanted next;
    /// alone, what is a little ahead of it.
    void run(Piece<> piece, Index first_token, Index last_token) const {
        constexpr int alone = Lanes::template tokens<Q>(planes, true);
        constexpr Index most = Lanes::template tokens<Q>(planes, false);
        const Index tokens = last_token - first_token, tiles = tokens <= alone ? 1 : divide_up(tokens, most);
        with_even_tiles<alone>(
            tokens, tiles, [&](auto largest, Index large) { run_tiles<largest>(piece, first_token, tiles, large); });
    }

  private:
    using Lanes = QuadLanes<Architecture>;
    static constexpr int planes = Group::planes;

    /// So many tiles, of which the first `large` have `most` tokens and the others one fewer.
    template <int most>
    void run_tiles(Piece<> piece, Index token, Index tiles, Index large) const {
        constexpr Index groups_ahead = 4;
        const Index share = piece.count * piece.next_lines * cache_line / tiles;
        if (tiles == 1) piece.next = piece.codes[0] + groups_ahead * Matrix::group_bytes;
        piece.next_lines = tiles > 1 || most > reading_.tokens_by_hardware ? divide_up(piece.next_lines, tiles) : 0;
        for_each_even_tile<most>(tiles, large, [&](auto count) {
            tile<count>(token, piece);
            token += count;
            piece.sums += count * Matrix::panel_rows;
            piece.next += share;
        });
    }

    /// Flattened and by itself, so that at any level of optimisation, whatever surrounds it, the sums are registers.
    template <int tokens, std::size_t panels = 1>
    [[gnu::flatten, gnu::noinline]] void tile(Index token, const Piece<panels>& piece) const {
        constexpr std::size_t vectors = Lanes::vectors, vector = Matrix::panel_rows / vectors;
        typename Lanes::Floats sums[panels * tokens][vectors];
        unroll<panels * tokens * vectors>([&](auto i) { sums[i / vectors][i % vectors] = Lanes::zero(); });
        if (piece.first > 0)
            unroll<panels * tokens * vectors>(
                [&](auto i) { sums[i / vectors][i % vectors] = Lanes::load(piece.sums + i * vector); });
        const Group* x = x_.row(token) + piece.first;
        auto codes = piece.codes;
        const std::byte* next = piece.next;
        for (Index g = 0; g < piece.count; ++g, ++x) {
            if constexpr (tokens > 1)
                for (Index i = 0; i < piece.next_lines; ++i, next += cache_line) reading_.fetch(next);
            unroll<panels>([&](auto i) {
                if (tokens == 1 && reading_.fetches_beside) fetch_beside(codes[i], Matrix::scale_bytes);
                add_group<tokens, tokens * i>(codes[i], x, sums);
                codes[i] += Matrix::group_bytes;
                // Registers lack for the loads of several panels, if compilers mix them.
                if constexpr (panels > 1) std::atomic_signal_fence(std::memory_order_seq_cst);
            });
        }
        if (!piece.is_last) {
            unroll<panels * tokens * vectors>(
                [&](auto i) { Lanes::store(sums[i / vectors][i % vectors], piece.sums + i * vector); });
            return;
        }
        unroll<panels * tokens>([&](auto i) {
            constexpr std::size_t p = i / tokens, t = i % tokens;
            std::array<float, Matrix::panel_rows> values;
            unroll<vectors>([&](auto v) { Lanes::store(sums[i][v], values.data() + vector * v); });
            write_panel<Architecture>(values.data(), piece.panel[p], token + static_cast<Index>(t), out_, update_);
        });
    }

    /// Asks for what stands behind the bytes that are multiplied now.
    void fetch_beside(const std::byte* now, Index bytes) const {
        constexpr Index bytes_ahead = 2048;
        for (Index i = 0; i < bytes; i += cache_line) reading_.fetch(now + bytes_ahead + i);
    }

    /// Adds a group's products to the sums of the tokens, which begin at `first`, for as many of a panel's vectors at
    /// once as registers hold, from `first_vector` on. A function of its own would keep the sums in memory.
    template <int tokens, std::size_t first, std::size_t first_vector = 0, class Sums>
    [[gnu::always_inline]] void add_group(const std::byte* group, const Group* x, Sums& sums) const {
        constexpr std::size_t vectors = Lanes::vectors_at_once(tokens);
        constexpr std::size_t vector_bytes = Matrix::panel_rows * Matrix::quad / Lanes::vectors;
        typename Lanes::Integers products[tokens][planes][vectors];
        unroll<tokens * planes>([&](auto i) {
            constexpr std::size_t t = i / planes, p = i % planes;
            const auto offset = Lanes::start(x[static_cast<Index>(t) * x_.stride()].offsets[p]);
            unroll<vectors>([&](auto v) { products[t][p][v] = offset; });
        });
        const std::byte* codes = group + Matrix::scale_bytes + first_vector * vector_bytes;
        for (std::size_t i = 0; i < group_size; i += 2 * Matrix::quad, codes += Matrix::pair_bytes) {
            if constexpr (tokens == 1 && first_vector == 0)
                if (reading_.fetches_beside) fetch_beside(codes, Matrix::pair_bytes);
            typename Lanes::Quads quads[2][vectors];
            Lanes::template load_pair<Q>(codes, quads);
            unroll<2 * tokens * planes>([&](auto j) {
                constexpr std::size_t q = j / (tokens * planes), t = j / planes % tokens, p = j % planes;
                const typename Lanes::Digit* digits =
                    x[static_cast<Index>(t) * x_.stride()].digits[p].data() + i + q * Matrix::quad;
                unroll<vectors>(
                    [&](auto v) { products[t][p][v] = Lanes::dot(quads[q][v], digits, products[t][p][v]); });
            });
        }
        unroll<vectors>([&](auto v) {
            constexpr std::size_t vector = first_vector + v;
            const auto scales = Lanes::load_scales(group + Matrix::scale_bytes / Lanes::vectors * vector);
            unroll<tokens>([&](auto t) {
                auto product = products[t][0][v];
                if constexpr (planes == 2) product = Lanes::join(product, products[t][1][v]);
                const float scale = x[static_cast<Index>(t) * x_.stride()].scale;
                sums[first + t][vector] = Lanes::multiply_add(product, scales, scale, sums[first + t][vector]);
            });
        });
        if constexpr (first_vector + vectors < Lanes::vectors)
            add_group<tokens, first, first_vector + vectors>(group, x, sums);
    }

    MatrixView<const Group> x_;
    MatrixView<float> out_;
    Update update_;
    PanelReading reading_;
};

}  // namespace mistral::cpu

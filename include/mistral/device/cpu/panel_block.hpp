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

namespace mistral::cpu {

/// The sums of a panel's rows with a token, which lie side by side, to out [tokens, outputs].
template <class Architecture>
void write_panel(const float* sums, Index panel, Index token, MatrixView<float> out, Update update) {
    constexpr Index rows = PackedMatrix<Q8>::panel_rows;
    static_assert(rows == PackedMatrix<Q4>::panel_rows);
    float* const to = out.row(token) + panel * rows;
    for (Index r = 0; r < std::min(rows, out.cols() - panel * rows); ++r)
        to[r] = update == Update::add ? to[r] + sums[r] : sums[r];
}

/// The products of panels with quantised tokens [tokens, groups].
template <QuantizedScalar Q, class Architecture, class Group>
class PanelBlock {
  public:
    PanelBlock(const PackedMatrix<Q>& weights, MatrixView<const Group> x, MatrixView<float> out, Update update,
               const PanelReading& reading)
        : weights_(weights), x_(x), out_(out), update_(update), reading_(reading) {}

    /// The only token with the panels first … last - 1, of which memory may give several at the same time faster.
    void run_alone(Index first, Index last) const {
        if (reading_.streams == 4)
            run_streams<4>(first, last);
        else if (reading_.streams == 2)
            run_streams<2>(first, last);
        else
            run_streams<1>(first, last);
    }

    /// Several tokens with the panels first … last - 1, in pieces of so many groups of inputs: a piece of a few panels
    /// meets all tokens before the next one. `sums` [sums_of(tokens)] keeps what the pieces give so far.
    void run(Index first, Index last, Index first_token, Index last_token, Index groups_at_once, float* sums) const {
        const Index tokens = last_token - first_token;
        for (; first < last; first += panels_at_once)
            for (Index group = 0; group < weights_.groups(); group += groups_at_once) {
                Piece piece{group, std::min(weights_.groups(), group + groups_at_once), sums};
                for (Index panel = first; panel < std::min(last, first + panels_at_once); ++panel) {
                    run_piece(panel, first_token, tokens, piece);
                    piece.sums += tokens * Matrix::panel_rows;
                }
            }
    }

    static constexpr Index sums_of(Index tokens) { return panels_at_once * tokens * Matrix::panel_rows; }

  private:
    using Matrix = PackedMatrix<Q>;
    using Lanes = QuadLanes<Architecture>;
    static constexpr int planes = Group::planes;
    static constexpr Index panels_at_once = 8;

    /// The groups first … last - 1, and the sums [tokens, panel_rows] of a tile between them and the others.
    struct Piece {
        Index first;
        Index last;
        float* sums;
    };
    [[nodiscard]] Piece whole() const { return {0, weights_.groups(), nullptr}; }

    template <std::size_t streams>
    void run_streams(Index first, Index last) const {
        const Index each = (last - first) / static_cast<Index>(streams);
        for (Index panel = first; panel < first + each; ++panel) {
            std::array<Index, streams> panels;
            for (std::size_t i = 0; i < streams; ++i) panels[i] = panel + static_cast<Index>(i) * each;
            tile<1, streams>(panels, 0, whole(), nullptr, 0);
        }
        for (Index panel = first + static_cast<Index>(streams) * each; panel < last; ++panel)
            tile<1, 1>({panel}, 0, whole(), nullptr, 0);
    }

    /// The tokens in as few tiles as hold them, all about equally large.
    void run_piece(Index panel, Index first_token, Index tokens, const Piece& piece) const {
        constexpr int alone = Lanes::template tokens<Q>(planes, true);
        constexpr Index most = Lanes::template tokens<Q>(planes, false);
        tiles_of<alone>(panel, first_token, tokens, tokens <= alone ? 1 : divide_up(tokens, most), piece);
    }

    /// Tiles of `most` tokens or one fewer, of the largest `most` that leaves none of them empty. Each fetches a part
    /// of the panel that follows; alone, what is a little ahead of it.
    template <int most>
    void tiles_of(Index panel, Index token, Index tokens, Index tiles, Piece piece) const {
        if constexpr (most > 1)
            if (tokens <= (most - 1) * tiles) return tiles_of<most - 1>(panel, token, tokens, tiles, piece);
        const Index large = tokens - (most - 1) * tiles;
        constexpr Index lines = Matrix::group_bytes / cache_line;
        constexpr Index groups_ahead = 4;
        const Index lines_ahead = tiles > 1 || most > reading_.tokens_by_hardware ? divide_up(lines, tiles) : 0;
        const std::byte* ahead = weights_.panel(panel) + piece.first * Matrix::group_bytes +
                                 (tiles == 1 ? groups_ahead * Matrix::group_bytes : weights_.panel_bytes());
        const Index share = (piece.last - piece.first) * Matrix::group_bytes / tiles;
        for_each_even_tile<most>(tiles, large, [&](auto count) {
            tile<count, 1>({panel}, token, piece, ahead, lines_ahead);
            token += count;
            piece.sums += count * Matrix::panel_rows;
            ahead += share;
        });
    }

    /// Flattened and by itself, so that at any level of optimisation, whatever surrounds it, the sums are registers.
    template <int tokens, std::size_t panels = 1>
    [[gnu::flatten, gnu::noinline]] void tile(std::array<Index, panels> panel, Index token, const Piece& piece,
                                              const std::byte* ahead, Index lines_ahead) const {
        constexpr std::size_t vectors = Lanes::vectors, vector = Matrix::panel_rows / vectors;
        typename Lanes::Floats sums[panels * tokens][vectors];
        unroll<panels * tokens * vectors>([&](auto i) { sums[i / vectors][i % vectors] = Lanes::zero(); });
        if (piece.first > 0)
            unroll<panels * tokens * vectors>(
                [&](auto i) { sums[i / vectors][i % vectors] = Lanes::load(piece.sums + i * vector); });
        std::array<const std::byte*, panels> group;
        for (std::size_t i = 0; i < panels; ++i)
            group[i] = weights_.panel(panel[i]) + piece.first * Matrix::group_bytes;
        const Group* x = x_.row(token) + piece.first;
        for (Index g = piece.first; g < piece.last; ++g, ++x) {
            if constexpr (tokens > 1)
                for (Index i = 0; i < lines_ahead; ++i, ahead += cache_line) reading_.fetch(ahead);
            unroll<panels>([&](auto i) {
                if (tokens == 1 && reading_.fetches_beside) fetch_beside(group[i], Matrix::scale_bytes);
                add_group<tokens, tokens * i>(group[i], x, sums);
                group[i] += Matrix::group_bytes;
                // Registers lack for the loads of several panels, if compilers mix them.
                if constexpr (panels > 1) std::atomic_signal_fence(std::memory_order_seq_cst);
            });
        }
        if (piece.last < weights_.groups()) {
            unroll<panels * tokens * vectors>(
                [&](auto i) { Lanes::store(sums[i / vectors][i % vectors], piece.sums + i * vector); });
            return;
        }
        unroll<panels * tokens>([&](auto i) {
            constexpr std::size_t p = i / tokens, t = i % tokens;
            std::array<float, Matrix::panel_rows> values;
            unroll<vectors>([&](auto v) { Lanes::store(sums[i][v], values.data() + vector * v); });
            write_panel<Architecture>(values.data(), panel[p], token + static_cast<Index>(t), out_, update_);
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
        constexpr Index pair_bytes = Matrix::code_bytes / (group_size / (2 * Matrix::quad));
        constexpr std::size_t vector_bytes = Matrix::panel_rows * Matrix::quad / Lanes::vectors;
        typename Lanes::Integers products[tokens][planes][vectors];
        unroll<tokens * planes>([&](auto i) {
            constexpr std::size_t t = i / planes, p = i % planes;
            const auto offset = Lanes::start(x[static_cast<Index>(t) * x_.stride()].offsets[p]);
            unroll<vectors>([&](auto v) { products[t][p][v] = offset; });
        });
        const std::byte* codes = group + Matrix::scale_bytes + first_vector * vector_bytes;
        for (std::size_t i = 0; i < group_size; i += 2 * Matrix::quad, codes += pair_bytes) {
            if constexpr (tokens == 1 && first_vector == 0)
                if (reading_.fetches_beside) fetch_beside(codes, pair_bytes);
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

    const Matrix& weights_;
    MatrixView<const Group> x_;
    MatrixView<float> out_;
    Update update_;
    PanelReading reading_;
};

}  // namespace mistral::cpu

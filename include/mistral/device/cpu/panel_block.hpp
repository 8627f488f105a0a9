#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>
#include <mistral/device/cpu/panel_tiles.hpp>
#include <mistral/device/cpu/prefetch.hpp>
#include <mistral/device/cpu/quad_lanes.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstring>

namespace mistral::cpu {

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

    /// Several tokens with the panels first … last - 1. `sums` [sums_of(tokens)] keeps what the groups give so far: of
    /// many inputs, so many groups of a few panels meet all tokens before the next ones.
    void run(Index first, Index last, Index first_token, Index last_token, Index groups_at_once, float* sums) const {
        if constexpr (std::same_as<Q, Q4>)
            if (reading_.unpacks_once && last_token - first_token >= tokens_to_unpack_for)
                return run_unpacked(first, last, first_token, last_token, sums);
        const Tiles<Q> tiles = tiles_of<Q>();
        for (; first < last; first += panels_at_once)
            for (Index group = 0; group < weights_.groups(); group += groups_at_once) {
                const Index count = std::min(groups_at_once, weights_.groups() - group);
                float* so_far = sums;
                for (Index panel = first; panel < std::min(last, first + panels_at_once); ++panel) {
                    const std::byte* const codes = codes_of(panel, group);
                    tiles.run({.panel = {panel},
                               .codes = {codes},
                               .first = group,
                               .count = count,
                               .is_last = group + count == weights_.groups(),
                               .sums = so_far,
                               .next = codes + weights_.panel_bytes(),
                               .next_lines = group_lines},
                              first_token, last_token);
                    so_far += (last_token - first_token) * Matrix::panel_rows;
                }
            }
    }

    static constexpr Index sums_of(Index tokens) { return panels_at_once * tokens * Matrix::panel_rows; }

  private:
    using Matrix = PackedMatrix<Q>;
    using Unpacked = PackedMatrix<Q8>;
    using Lanes = QuadLanes<Architecture>;
    template <class Order>
    using Tiles = PanelTiles<Order, Architecture, Group>;
    static constexpr Index panels_at_once = 8;
    static constexpr Index tokens_to_unpack_for = 20;  // some tiles: for fewer it costs what it saves
    static constexpr Index groups_to_unpack = 8;
    static constexpr Index group_lines = Matrix::group_bytes / cache_line;

    template <class Order>
    [[nodiscard]] Tiles<Order> tiles_of() const {
        return {x_, out_, update_, reading_};
    }

    [[nodiscard]] const std::byte* codes_of(Index panel, Index group) const {
        return weights_.panel(panel) + group * Matrix::group_bytes;
    }

    /// For many tokens, levels are looked up once: a few groups of a panel at a time, which stay in L1 meanwhile.
    void run_unpacked(Index first, Index last, Index first_token, Index last_token, float* sums) const {
        alignas(cache_line) std::array<std::byte, std::size_t{groups_to_unpack * Unpacked::group_bytes}> unpacked;
        const Tiles<Q8> tiles = tiles_of<Q8>();
        for (Index panel = first; panel < last; ++panel)
            for (Index group = 0; group < weights_.groups(); group += groups_to_unpack) {
                const Index count = std::min(groups_to_unpack, weights_.groups() - group);
                const std::byte* const codes = codes_of(panel, group);
                for (Index g = 0; g < count; ++g)
                    unpack(codes + g * Matrix::group_bytes, unpacked.data() + g * Unpacked::group_bytes);
                tiles.run({.panel = {panel},
                           .codes = {unpacked.data()},
                           .first = group,
                           .count = count,
                           .is_last = group + count == weights_.groups(),
                           .sums = sums,
                           .next = codes + count * Matrix::group_bytes,
                           .next_lines = group_lines},
                          first_token, last_token);
            }
    }

    template <std::size_t streams>
    void run_streams(Index first, Index last) const {
        const Tiles<Q> tiles = tiles_of<Q>();
        const Index each = (last - first) / static_cast<Index>(streams);
        for (Index panel = first; panel < first + each; ++panel) {
            typename Tiles<Q>::template Piece<streams> piece{.count = weights_.groups()};
            for (std::size_t i = 0; i < streams; ++i) {
                piece.panel[i] = panel + static_cast<Index>(i) * each;
                piece.codes[i] = codes_of(piece.panel[i], 0);
            }
            tiles.run_alone(piece);
        }
        for (Index panel = first + static_cast<Index>(streams) * each; panel < last; ++panel)
            tiles.template run_alone<1>({.panel = {panel}, .codes = {codes_of(panel, 0)}, .count = weights_.groups()});
    }

    /// A group -> the same in the order of Q8.
    static void unpack(const std::byte* group, std::byte* unpacked) {
        std::memcpy(unpacked, group, Matrix::scale_bytes);
        group += Matrix::scale_bytes;
        unpacked += Matrix::scale_bytes;
        for (Index pair = 0; pair < group_size / (2 * Matrix::quad); ++pair) {
            typename Lanes::Quads quads[2][Lanes::vectors];
            Lanes::template load_pair<Q>(group + pair * Matrix::pair_bytes, quads);
            std::memcpy(unpacked + pair * Unpacked::pair_bytes, quads, sizeof(quads));
        }
    }

    const Matrix& weights_;
    MatrixView<const Group> x_;
    MatrixView<float> out_;
    Update update_;
    PanelReading reading_;
};

}  // namespace mistral::cpu

#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>
#include <mistral/device/cpu/quad_lanes.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <cstddef>

namespace mistral::cpu {

/// Instruction sets that multiply pairs of 16 bits, to which weights are widened.
template <class Lanes>
concept WidensQuads = requires(typename Lanes::Quads quads, typename Lanes::Quads (&pairs)[2]) {
    Lanes::widen(quads, pairs);
};

/// The same as PanelBlock for many tokens, where weights are unpacked and widened once for all of them: a few groups at
/// a time, which stay in L1 while the tokens pass.
template <QuantizedScalar Q, class Architecture, class Group>
class WidenedPanels {
  public:
    static constexpr Index least_tokens = 16;  ///< for fewer, to widen once more for each tile costs less
    static constexpr Index most_tokens = 120;  ///< of a task, whose groups stay in L2
    static constexpr Index tile_tokens = 5;

    /// Of memory that one thread needs for so many tokens.
    static Index scratch_bytes(Index tokens) {
        return groups_at_once * widened_bytes + tokens * Matrix::panel_rows * Index{sizeof(float)};
    }

    /// x [tokens, groups].
    WidenedPanels(const PackedMatrix<Q>& weights, MatrixView<const Group> x, MatrixView<float> out, Update update,
                  std::byte* scratch)
        : weights_(weights),
          x_(x),
          out_(out),
          update_(update),
          widened_(reinterpret_cast<Quads*>(scratch)),
          sums_(reinterpret_cast<float*>(scratch + groups_at_once * widened_bytes)) {}

    void run(Index panel, Index first_token, Index last_token) const {
        std::fill_n(sums_, (last_token - first_token) * Matrix::panel_rows, 0.0f);
        for (Index group = 0; group < weights_.groups(); group += groups_at_once) {
            const std::byte* const packed = weights_.panel(panel) + group * Matrix::group_bytes;
            const Index groups = std::min(groups_at_once, weights_.groups() - group);
            for (Index g = 0; g < groups; ++g) widen(packed + g * Matrix::group_bytes, widened_ + g * group_quads);
            multiply(packed, group, groups, first_token, last_token);
        }
        write(panel, first_token, last_token);
    }

  private:
    using Matrix = PackedMatrix<Q>;
    using Lanes = QuadLanes<Architecture>;
    using Quads = typename Lanes::Quads;

    static constexpr Index groups_at_once = 4;  // 16 KiB when they are widened
    static constexpr Index vectors = Lanes::vectors;
    static constexpr Index tile_vectors = 2;
    static constexpr Index pairs = group_size / 2;
    static constexpr Index group_quads = pairs * vectors;  // of widened ones
    static constexpr Index widened_bytes = group_quads * Index{sizeof(Quads)};
    static constexpr Index lanes = Matrix::panel_rows / vectors;

    /// The codes of a group -> [tiles of vectors, pairs, tile_vectors].
    static void widen(const std::byte* group, Quads* widened) {
        constexpr Index pair_bytes = Matrix::code_bytes / (group_size / (2 * Matrix::quad));
        const std::byte* codes = group + Matrix::scale_bytes;
        for (Index pair = 0; pair < pairs; pair += 4, codes += pair_bytes) {
            Quads quads[2][vectors];
            Lanes::template load_pair<Q>(codes, quads);
            for (Index q = 0; q < 2; ++q)
                for (Index v = 0; v < vectors; ++v) {
                    Quads two[2];
                    Lanes::widen(quads[q][v], two);
                    Quads* const to =
                        widened + (v / tile_vectors * pairs + pair + 2 * q) * tile_vectors + v % tile_vectors;
                    to[0] = two[0];
                    to[tile_vectors] = two[1];
                }
        }
    }

    void multiply(const std::byte* packed, Index group, Index groups, Index token, Index last_token) const {
        float* sums = sums_;
        for_each_tile<tile_tokens>(token, last_token, [&](auto tokens, Index first) {
            for (Index v = 0; v < vectors; v += tile_vectors, sums += tokens * tile_vectors * lanes)
                for (Index g = 0; g < groups; ++g)
                    tile<tokens>(widened_ + g * group_quads + v * pairs,
                                 packed + g * Matrix::group_bytes + v * 2 * lanes, x_.row(first) + group + g, sums);
        });
    }

    /// Flattened, so that at any level of optimisation the products are registers; and a function of its own, since
    /// compilers otherwise give the registers to the sums of the groups' loop.
    template <Index tokens>
    [[gnu::flatten, gnu::noinline]] void tile(const Quads* weights, const std::byte* scales, const Group* x,
                                              float* sums) const {
        typename Lanes::Integers products[tokens][tile_vectors];
        unroll<tokens * tile_vectors>([&](auto i) {
            constexpr std::size_t t = i / tile_vectors;
            products[t][i % tile_vectors] = Lanes::start(x[Index{t} * x_.stride()].offsets[0]);
        });
        for (Index pair = 0; pair < pairs; ++pair, weights += tile_vectors)
            unroll<tokens * tile_vectors>([&](auto i) {
                constexpr std::size_t t = i / tile_vectors, v = i % tile_vectors;
                const auto* numbers = x[Index{t} * x_.stride()].digits[0].data() + 2 * pair;
                products[t][v] = Lanes::dot_pairs(weights[v], numbers, products[t][v]);
            });
        unroll<tile_vectors>([&](auto v) {
            const auto row_scales = Lanes::load_scales(scales + Index{v} * 2 * lanes);
            unroll<tokens>([&](auto t) {
                float* const sum = sums + (Index{t} * tile_vectors + Index{v}) * lanes;
                Lanes::store(
                    Lanes::multiply_add(products[t][v], row_scales, x[Index{t} * x_.stride()].scale, Lanes::load(sum)),
                    sum);
            });
        });
    }

    /// Sums lie tile after tile: [tiles of vectors, tokens of it, tile_vectors * lanes].
    void write(Index panel, Index token, Index last_token) const {
        constexpr Index tile_lanes = tile_vectors * lanes;
        const Index first = panel * Matrix::panel_rows;
        const Index rows = std::min(Matrix::panel_rows, out_.cols() - first);
        const float* sums = sums_;
        while (token < last_token) {
            const Index tokens = std::min(tile_tokens, last_token - token);
            for (Index t = 0; t < tokens; ++t)
                for (Index r = 0; r < rows; ++r) {
                    const float value = sums[(r / tile_lanes * tokens + t) * tile_lanes + r % tile_lanes];
                    float& out = out_(token + t, first + r);
                    out = update_ == Update::add ? out + value : value;
                }
            sums += tokens * Matrix::panel_rows;
            token += tokens;
        }
    }

    const Matrix& weights_;
    MatrixView<const Group> x_;
    MatrixView<float> out_;
    Update update_;
    Quads* widened_;  // [groups_at_once, tiles of vectors, pairs, tile_vectors]
    float* sums_;
};

}  // namespace mistral::cpu

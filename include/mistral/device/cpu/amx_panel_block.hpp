#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>
#include <mistral/device/cpu/panel_tiles.hpp>
#include <mistral/device/cpu/prefetch.hpp>
#include <mistral/device/cpu/quad_lanes.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/cpu/token_group.hpp>
#include <mistral/device/device.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>

namespace mistral::cpu {

/// So many tokens are one tile with all planes of their digits, and their sums half of the vector registers.
inline constexpr int few_tokens = 8;

/// A group of the activations of up to 16 tokens, as tiles take them: the planes one after the other, of few tokens
/// without a gap.
template <int bits>
struct alignas(cache_line) AmxTokenGroup {
    using OfOne = TokenGroup<bits, std::int8_t>;
    static constexpr std::size_t planes = OfOne::planes;

    std::array<typename OfOne::Plane, planes * amx_rows> digits;
    std::array<std::int32_t, amx_rows> offsets;  ///< of the planes together
    std::array<float, amx_rows> scales;

    [[nodiscard]] static constexpr Index plane_rows(Index tokens) { return tokens <= few_tokens ? tokens : amx_rows; }

    /// `token` of so many.
    void set(Index token, Index tokens, const OfOne& group) {
        const auto at = static_cast<std::size_t>(token);
        offsets[at] = 0;
        for (std::size_t p = 0; p < planes; ++p) {
            digits[p * static_cast<std::size_t>(plane_rows(tokens)) + at] = group.digits[p];
            offsets[at] = 128 * offsets[at] + group.offsets[p];
        }
        scales[at] = group.scale;
    }
};

/// The products of PanelBlock, to the last bit, by tiles of bytes: tokens are left operands, and codes of Q8 right ones
/// as they lie; those of Q4 become levels first. What a tile holds of a group is scaled and added while the next group
/// is multiplied.
///
/// The template argument `few` is the number of tokens where those of the only tile are few, and 0 where they are not.
template <QuantizedScalar Q, int bits>
class AmxPanelBlock {
  public:
    using Group = AmxTokenGroup<bits>;

    /// x [tiles of tokens, groups], `tile_tokens` in each tile but the last.
    AmxPanelBlock(const PackedMatrix<Q>& weights, MatrixView<const Group> x, Index tile_tokens, MatrixView<float> out,
                  Update update)
        : weights_(weights), x_(x), tile_tokens_(tile_tokens), out_(out), update_(update) {}

    /// `first_token` begins a tile.
    void run(Index first_panel, Index last_panel, Index first_token, Index last_token) const {
        if (tile_tokens_ <= few_tokens)
            with_even_tiles<few_tokens>(tile_tokens_, 1, [&](auto few, Index) {
                run_tiles<few>(first_panel, last_panel, first_token, last_token);
            });
        else
            run_tiles<0>(first_panel, last_panel, first_token, last_token);
    }

  private:
    using Matrix = PackedMatrix<Q>;
    using Lanes = QuadLanes<Avx512Dot>;
    using Registers = AmxRegisters;
    static constexpr std::size_t planes = Group::planes;
    static constexpr std::size_t vectors = Lanes::vectors;
    static constexpr Index quad_bytes = Matrix::panel_rows * Matrix::quad;

    using Products = std::array<std::int32_t, planes * vectors * amx_tile>;
    using Levels = std::array<std::byte, std::size_t{group_size / Matrix::quad * quad_bytes}>;

    template <int few>
    using Sums = Lanes::Floats[few > 0 ? few : amx_rows][vectors];

    /// Lines to fetch beside each group.
    struct Fetching {
        const std::byte* first;
        Index lines;
    };

    template <int few>
    void run_tiles(Index first_panel, Index last_panel, Index first_token, Index last_token) const {
        const AmxRegisters registers(few > 0 ? few * Index{planes} : tile_tokens_);
        const Index tiles = divide_up(last_token - first_token, tile_tokens_);
        for (Index panel = first_panel; panel < last_panel; ++panel)
            for (Index tile = 0; tile < tiles; ++tile)
                multiply<few>(panel, first_token / tile_tokens_ + tile, fetching(panel, tile, tiles));
    }

    /// A tile alone fetches what is a little ahead; one of several, its part of the panel that follows.
    [[nodiscard]] Fetching fetching(Index panel, Index tile, Index tiles) const {
        constexpr Index groups_ahead = 8;
        const std::byte* const from = weights_.panel(panel);
        if (tiles == 1) return {from + groups_ahead * Matrix::group_bytes, Matrix::group_bytes / cache_line};
        return {from + weights_.panel_bytes() + tile * weights_.panel_bytes() / tiles,
                divide_up(Matrix::group_bytes / cache_line, tiles)};
    }

    /// Flattened and by itself, so that the sums of few tokens are registers.
    template <int few>
    [[gnu::flatten, gnu::noinline]] void multiply(Index panel, Index tile, Fetching fetching) const {
        alignas(cache_line) std::array<Products, 2> products;
        alignas(cache_line) std::array<Levels, 2> levels;
        const Index first = tile * tile_tokens_, tokens = std::min(tile_tokens_, out_.rows() - first);
        Sums<few> sums;
        for_each_token<few>(tokens, [&](auto t) { unroll<vectors>([&](auto v) { sums[t][v] = Lanes::zero(); }); });
        const Group* const x = x_.row(tile);
        const std::byte* group = weights_.panel(panel);
        for (Index g = 0; g < weights_.groups(); ++g, group += Matrix::group_bytes) {
            const auto at = static_cast<std::size_t>(g % 2);
            multiply_group<few>(group, x[g], levels[at]);
            if (g > 0) add<few>(group - Matrix::group_bytes, x[g - 1], tokens, products[1 - at], sums, fetching);
            store<few>(products[at]);
        }
        const auto last = static_cast<std::size_t>(weights_.groups() - 1);
        add<few>(group - Matrix::group_bytes, x[last], tokens, products[last % 2], sums, fetching);
        for_each_token<few>(tokens, [&](auto t) {
            alignas(cache_line) std::array<float, std::size_t{Matrix::panel_rows}> values;
            unroll<vectors>([&](auto v) { Lanes::store(sums[t][v], values.data() + v * amx_columns); });
            write_panel<Amx>(values.data(), panel, first + static_cast<Index>(t), out_, update_);
        });
    }

    /// Left operands of a group: the planes of few tokens are rows of one.
    template <int few>
    static constexpr std::size_t operands = few > 0 ? 1 : planes;

    /// The products of a group's two vectors of rows with all planes, in registers.
    template <int few>
    static void multiply_group(const std::byte* group, const Group& x, Levels& levels) {
        const std::byte* codes = group + Matrix::scale_bytes;
        if constexpr (std::same_as<Q, Q4>) {
            unpack(codes, levels);
            codes = levels.data();
        }
        unroll<operands<few> * vectors>([](auto i) { Registers::clear<static_cast<int>(i)>(); });
        Registers::load<4>(x.digits.data());
        Registers::load<6>(codes, quad_bytes);
        Registers::multiply_add_bytes<0, 4, 6>();
        Registers::load<7>(codes + quad_bytes / 2, quad_bytes);
        Registers::multiply_add_bytes<1, 4, 7>();
        if constexpr (operands<few> == 2) {
            Registers::load<5>(x.digits.data() + amx_rows);
            Registers::multiply_add_bytes<2, 5, 6>();
            Registers::multiply_add_bytes<3, 5, 7>();
        }
    }

    static void unpack(const std::byte* codes, Levels& levels) {
        std::byte* to = levels.data();
        for (; to < levels.data() + levels.size(); to += 2 * quad_bytes, codes += quad_bytes) {
            __m512i quads[2][vectors];
            Lanes::load_pair<Q>(codes, quads);
            unroll<2 * vectors>(
                [&](auto i) { _mm512_store_si512(to + i * sizeof(__m512i), quads[i / vectors][i % vectors]); });
        }
    }

    template <int few>
    static void store(Products& products) {
        unroll<operands<few> * vectors>(
            [&](auto i) { Registers::store<static_cast<int>(i)>(products.data() + i * amx_tile); });
    }

    /// Adds a group's products to the sums, and fetches lines evenly meanwhile.
    template <int few>
    static void add(const std::byte* group, const Group& x, Index tokens, const Products& products, Sums<few>& sums,
                    Fetching& fetching) {
        constexpr Index next_plane = few > 0 ? few * amx_columns : vectors * amx_tile;
        Index fetched = 0;
        const __m512 scales[vectors] = {Lanes::load_scales(group), Lanes::load_scales(group + Matrix::scale_bytes / 2)};
        for_each_token<few>(tokens, [&](auto t) {
            const auto token = static_cast<std::size_t>(t);
            const auto due = static_cast<Index>(token + 1) * fetching.lines;
            for (; fetched * tokens < due; ++fetched, fetching.first += cache_line) prefetch(fetching.first);
            unroll<vectors>([&](auto v) {
                const std::int32_t* const from = products.data() + v * amx_tile + token * amx_columns;
                __m512i product = _mm512_load_si512(from);
                if constexpr (planes == 2) product = Lanes::join(product, _mm512_load_si512(from + next_plane));
                product = _mm512_add_epi32(product, Lanes::start(x.offsets[token]));
                sums[t][v] = Lanes::multiply_add(product, scales[v], x.scales[token], sums[t][v]);
            });
        });
    }

    /// Calls body(t), of few tokens each a constant.
    template <int few, class Body>
    static void for_each_token(Index tokens, const Body& body) {
        if constexpr (few > 0)
            unroll<few>(body);
        else
            for (Index t = 0; t < tokens; ++t) body(t);
    }

    const Matrix& weights_;
    MatrixView<const Group> x_;
    Index tile_tokens_;
    MatrixView<float> out_;
    Update update_;
};

}  // namespace mistral::cpu
#endif

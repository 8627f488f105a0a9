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

/// A group of the activations of up to 16 tokens, as tiles take them.
template <int bits>
struct alignas(cache_line) AmxTokenGroup {
    using OfOne = TokenGroup<bits, std::int8_t>;
    static constexpr std::size_t planes = OfOne::planes;

    std::array<std::array<typename OfOne::Plane, amx_rows>, planes> digits;
    std::array<std::int32_t, amx_rows> offsets;  ///< of the planes together
    std::array<float, amx_rows> scales;

    void set(std::size_t token, const OfOne& group) {
        offsets[token] = 0;
        for (std::size_t p = 0; p < planes; ++p) {
            digits[p][token] = group.digits[p];
            offsets[token] = 128 * offsets[token] + group.offsets[p];
        }
        scales[token] = group.scale;
    }
};

/// The products of PanelBlock, to the last bit, by tiles of bytes: tokens are left operands, and codes of Q8 right ones
/// as they lie; those of Q4 become levels first. What a tile holds of a group is scaled and added while the next group
/// is multiplied.
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
        const AmxRegisters registers(tile_tokens_);
        const Index tiles = divide_up(last_token - first_token, tile_tokens_);
        for (Index panel = first_panel; panel < last_panel; ++panel)
            for (Index tile = 0; tile < tiles; ++tile)
                multiply(panel, first_token / tile_tokens_ + tile, fetching(panel, tile, tiles));
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
    using Sums = std::array<float, amx_rows * Matrix::panel_rows>;

    /// Lines to fetch beside each group.
    struct Fetching {
        const std::byte* first;
        Index lines;
    };

    /// A tile alone fetches what is a little ahead; one of several, its part of the panel that follows.
    [[nodiscard]] Fetching fetching(Index panel, Index tile, Index tiles) const {
        constexpr Index groups_ahead = 8;
        const std::byte* const from = weights_.panel(panel);
        if (tiles == 1) return {from + groups_ahead * Matrix::group_bytes, Matrix::group_bytes / cache_line};
        return {from + weights_.panel_bytes() + tile * weights_.panel_bytes() / tiles,
                divide_up(Matrix::group_bytes / cache_line, tiles)};
    }

    void multiply(Index panel, Index tile, Fetching fetching) const {
        alignas(cache_line) std::array<Products, 2> products;
        alignas(cache_line) std::array<Levels, 2> levels;
        alignas(cache_line) Sums sums{};
        const Index first = tile * tile_tokens_, tokens = std::min(tile_tokens_, out_.rows() - first);
        const Group* const x = x_.row(tile);
        const std::byte* group = weights_.panel(panel);
        for (Index g = 0; g < weights_.groups(); ++g, group += Matrix::group_bytes) {
            const auto at = static_cast<std::size_t>(g % 2);
            multiply_group(group, x[g], levels[at]);
            if (g > 0) add(group - Matrix::group_bytes, x[g - 1], tokens, products[1 - at], sums, fetching);
            store(products[at]);
        }
        const Index last = weights_.groups() - 1;
        add(group - Matrix::group_bytes, x[last], tokens, products[static_cast<std::size_t>(last % 2)], sums, fetching);
        for (Index t = 0; t < tokens; ++t)
            write_panel<Amx>(sums.data() + t * Matrix::panel_rows, panel, first + t, out_, update_);
    }

    /// The products of a group's two vectors of rows with all planes, in registers.
    static void multiply_group(const std::byte* group, const Group& x, Levels& levels) {
        const std::byte* codes = group + Matrix::scale_bytes;
        if constexpr (std::same_as<Q, Q4>) {
            unpack(codes, levels);
            codes = levels.data();
        }
        unroll<planes * vectors>([](auto i) { Registers::clear<static_cast<int>(i)>(); });
        Registers::load<4>(x.digits[0].data());
        Registers::load<6>(codes, quad_bytes);
        Registers::multiply_add_bytes<0, 4, 6>();
        Registers::load<7>(codes + quad_bytes / 2, quad_bytes);
        Registers::multiply_add_bytes<1, 4, 7>();
        if constexpr (planes == 2) {
            Registers::load<5>(x.digits[1].data());
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

    static void store(Products& products) {
        unroll<planes * vectors>(
            [&](auto i) { Registers::store<static_cast<int>(i)>(products.data() + i * amx_tile); });
    }

    /// Adds a group's products to the sums [tokens, 32].
    void add(const std::byte* group, const Group& x, Index tokens, const Products& products, Sums& sums,
             Fetching& fetching) const {
        const __m512 scales[vectors] = {Lanes::load_scales(group), Lanes::load_scales(group + Matrix::scale_bytes / 2)};
        Index fetched = 0;
        for (Index t = 0; t < tokens; ++t) {
            for (; fetched * tokens < (t + 1) * fetching.lines; ++fetched, fetching.first += cache_line)
                prefetch(fetching.first);
            const auto token = static_cast<std::size_t>(t);
            unroll<vectors>([&](auto v) {
                const std::int32_t* const from = products.data() + v * amx_tile + t * amx_columns;
                __m512i product = _mm512_load_si512(from);
                if constexpr (planes == 2) product = Lanes::join(product, _mm512_load_si512(from + vectors * amx_tile));
                product = _mm512_add_epi32(product, Lanes::start(x.offsets[token]));
                float* const sum = sums.data() + t * Matrix::panel_rows + v * amx_columns;
                _mm512_store_ps(sum, Lanes::multiply_add(product, scales[v], x.scales[token], _mm512_load_ps(sum)));
            });
        }
    }

    const Matrix& weights_;
    MatrixView<const Group> x_;
    Index tile_tokens_;
    MatrixView<float> out_;
    Update update_;
};

}  // namespace mistral::cpu
#endif

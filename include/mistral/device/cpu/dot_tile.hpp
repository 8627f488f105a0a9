#pragma once

#include <mistral/base/types.hpp>
#include <mistral/device/cpu/avx512_dot.hpp>
#include <mistral/device/cpu/core_kind.hpp>
#include <mistral/device/cpu/simd.hpp>

#include <array>
#include <concepts>
#include <cstddef>

namespace mistral::cpu {

/// The dot products of `rows` weight rows with `tokens` packed activation rows over whole steps, in registers.
/// weights: row r starts at weights + r * weight_stride; x: row t starts at x + t * x_stride.
template <class S, class Architecture, std::size_t rows, std::size_t tokens>
struct DotTile {
    using Lanes = WeightLanes<S, Architecture>;
    using Packed = typename Lanes::Packed;
    using Vector = Batch<Activation<S>, Architecture>;

    Vector sums[rows][tokens];

    DotTile() {
        unroll<rows * tokens>([this](auto i) { sums[i / tokens][i % tokens] = Vector(Activation<S>(0)); });
    }

    /// From and to [rows * tokens] vectors.
    void load(const Activation<S>* from) {
        unroll<rows * tokens>(
            [&](auto i) { sums[i / tokens][i % tokens] = Vector::load_aligned(from + i * Vector::size); });
    }
    void store(Activation<S>* to) const {
        unroll<rows * tokens>([&](auto i) { sums[i / tokens][i % tokens].store_aligned(to + i * Vector::size); });
    }

    /// Calls fetch(weights of the first row) before every step.
    template <class Fetch>
    void accumulate(const S* weights, Index weight_stride, const Packed* x, Index x_stride, Index steps, Fetch fetch) {
        for (Index step = 0; step < steps; ++step, weights += Lanes::step, x += Lanes::step) {
            fetch(weights);
            add(weights, weight_stride, x, x_stride);
        }
    }

    /// Keeps the operands of the shorter side in registers, so that each is loaded once. A function of its own would
    /// keep the sums in memory.
    [[gnu::always_inline]] void add(const S* weights, Index weight_stride, const Packed* x, Index x_stride) {
        const auto row = [=](auto r) { return Lanes::load(weights + static_cast<Index>(r) * weight_stride); };
        const auto token = [=](auto t) { return Lanes::load_packed(x + static_cast<Index>(t) * x_stride); };
        if constexpr (rows <= tokens) {
            typename Lanes::Operand kept[rows];
            unroll<rows>([&](auto r) { kept[r] = row(r); });
            unroll<tokens>([&](auto t) {
                const auto other = token(t);
                unroll<rows>([&](auto r) { sums[r][t] = multiply_add(kept[r], other, sums[r][t]); });
            });
        } else {
            typename Lanes::Operand kept[tokens];
            unroll<tokens>([&](auto t) { kept[t] = token(t); });
            unroll<rows>([&](auto r) {
                const auto other = row(r);
                unroll<tokens>([&](auto t) { sums[r][t] = multiply_add(other, kept[t], sums[r][t]); });
            });
        }
    }
};

/// The sizes of the register tile: as many sums as leave registers for the operands, which are one vector or two.
template <class S, class Architecture>
struct TileSize {
    static constexpr bool many_registers = lanes<float, Architecture> >= 16;  // AVX-512 has 32, the others 16
    static constexpr bool one_vector =
        sizeof(typename WeightLanes<S, Architecture>::Operand) == sizeof(Batch<Activation<S>, Architecture>);
    static constexpr bool widens = !std::same_as<typename WeightLanes<S, Architecture>::Packed, S>;
    static constexpr int tokens = many_registers ? (one_vector ? 6 : 5) : one_vector && !widens ? 3 : 2;

    /// Weight rows beside so many tokens: the fewer tokens, the more rows, which are so many streams from memory. Of 16
    /// registers, those that widen rows need one that 4 rows and 3 tokens would not leave.
    static constexpr int rows(int tokens) {
        if (many_registers ? tokens == (one_vector ? 4 : 3) : tokens == 2 && one_vector && widens) return 6;
        return tokens <= (many_registers ? 3 : 1) ? 8 : 4;
    }
    /// Memory is all for so few tokens, and gives one long stream the fastest. Vectors must be so large that a row's
    /// sums keep up, and the tokens so short that they stay in L1 meanwhile.
    static constexpr bool takes_single_rows(CoreKind core_kind, Index tokens, Index token_bytes) {
        return many_registers && core_kind != CoreKind::intel && tokens <= (core_kind == CoreKind::zen5 ? 2 : 1) &&
               tokens * token_bytes <= 20 * 1024;
    }
    /// How far ahead the only tile of tokens asks for its own rows; 0 if that is left to the hardware.
    static constexpr Index bytes_ahead(CoreKind core_kind, int rows) {
        if (core_kind == CoreKind::intel) return 512;
        return core_kind == CoreKind::zen5 && rows == 1 ? 8192 : 0;
    }
    /// Whether rows that follow are fetched beside so many tokens. With vectors of half the size, and where a near
    /// cache has the rows, AMD's hardware is faster by itself.
    static constexpr bool fetches_next_rows(CoreKind core_kind, int tokens, bool from_memory) {
        return many_registers && tokens > 1 && core_kind != CoreKind::zen5 &&
               (from_memory || core_kind == CoreKind::intel);
    }
    /// Whether so many tokens are multiplied by pieces of rows and inputs: where L2 gives a tile its tokens and rows
    /// more slowly than it multiplies them, and where rows are to be widened, which is then done once for many tokens,
    /// unless AMD's cores do it beside the products, by one instruction.
    static constexpr bool takes_pieces(CoreKind core_kind, Index all_tokens) {
        return all_tokens >= 5 * tokens &&
               (core_kind == CoreKind::zen5 || (widens && (!one_vector || core_kind == CoreKind::intel)));
    }
    static constexpr int row_multiple = 24;  // holds whole tiles of any size
};

}  // namespace mistral::cpu

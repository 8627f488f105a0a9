#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/amx_product.hpp>
#include <mistral/device/cpu/attention_tile.hpp>
#include <mistral/device/cpu/avx512_pairs.hpp>
#include <mistral/device/cpu/key_value_pairs.hpp>
#include <mistral/device/cpu/paired_attention.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

namespace mistral::cpu {

inline constexpr Index amx_blocks_at_once = 4;  ///< of keys

/// Both products are those of tiles, for any number of queries: of 16, or fewer where there are no more. Where few
/// queries meet keys of bfloat16, these are left operands as they lie, and queries are rearranged; otherwise keys are.
/// The softmax goes on by four blocks at once, and by 32 queries, whose scores and weights hardly leave L1.
template <class C>
requires std::same_as<C, bfloat16> || std::same_as<C, Q8>
class AttentionTile<C, Amx> : public PairedAttention<C, amx_blocks_at_once> {
  public:
    using PairedAttention<C, amx_blocks_at_once>::keys_at_once;
    static constexpr Index tokens_per_tile = 64;  ///< for which keys and values are paired once

    /// Rows that a partial result needs for so many queries.
    [[nodiscard]] static Index padded(Index queries) {
        return queries <= amx_rows ? queries : round_up(queries, amx_rows);
    }

    /// Elements of scratch memory that a worker needs for so many tokens, a whole number of cache lines.
    [[nodiscard]] static Index scratch_size(const Shape& shape, Index tokens) {
        return Base::scratch_size(shape, padded(tokens * shape.group())) + queries_at_once * keys_at_once * 3 / 2 +
               amx_columns * (Base::width(shape) / 2 + keys_per_block);
    }

    AttentionTile(float* scratch, const HeadQueries& place)
        : Base(scratch, place, padded(place.count())),
          scores_(scratch + Base::scratch_size(place.shape, count_), queries_at_once, keys_at_once),
          weights_(reinterpret_cast<bfloat16*>(scores_.data() + queries_at_once * keys_at_once), queries_at_once,
                   keys_at_once),
          query_pairs_(reinterpret_cast<std::uint32_t*>(weights_.data() + queries_at_once * keys_at_once)),
          scores_by_key_(reinterpret_cast<float*>(query_pairs_ + amx_columns * width_ / 2)) {}

    void start(MatrixView<const float> queries) {
        Base::start(queries);
        if (takes_keys_as_they_lie())
            for (Index column = 0; column < width_; column += 2 * amx_columns)
                transpose_pairs(queries_.row(0) + column, width_, query_pairs_ + column / 2 * amx_columns, amx_columns);
    }

    void run(std::span<const KeyValueRun<C>> runs, Index first, Index last, PartialAttention<float> result) {
        const AmxRegisters registers(std::min(amx_rows, count_), amx_rows);
        for_blocks(runs, first, last, result, [&](const Positions& positions) {
            if (count_ <= amx_rows)
                attend_few(positions, result);
            else
                attend_many(positions, result);
        });
    }

  private:
    using Base = PairedAttention<C, amx_blocks_at_once>;
    using Base::all_keys;
    using Base::count_;
    using Base::for_blocks;
    using Base::hide_unseen;
    using Base::highest;
    using Base::pairs_;
    using Base::place_;
    using Base::queries_;
    using Base::vector;
    using Base::vectors;
    using Base::visible;
    using Base::weigh;
    using Base::width_;
    using typename Base::Positions;
    using typename Base::Totals;
    using typename Base::Vector;
    using typename Base::Visible;

    static constexpr Index queries_at_once = 2 * amx_rows;
    static constexpr Index columns_at_once = KeyValuePairs<C, amx_blocks_at_once>::columns_at_once;
    static_assert(columns_at_once == 2 * amx_columns);

    [[nodiscard]] bool takes_keys_as_they_lie() const { return std::same_as<C, bfloat16> && count_ <= amx_rows; }

    /// Calls body(block's positions, its slot among the blocks at once).
    template <class Body>
    static void for_each_block(const Positions& positions, Body body) {
        for (Index slot = positions.first_slot(); slot < positions.end_slot(); ++slot) {
            const Index block = positions.block + slot * keys_per_block;
            body(Positions{positions.runs, block, std::max(positions.first, block),
                           std::min(positions.last, block + keys_per_block)},
                 slot);
        }
    }

    /// For one tile of queries: some columns of values are paired and multiplied at once, from L1.
    void attend_few(const Positions& positions, PartialAttention<float> result) {
        for_each_block(positions, [&](const Positions& block, Index slot) {
            pairs_.find_scales(block);
            pairs_.find_keys(block);
            if (takes_keys_as_they_lie()) return multiply_rows_of_keys(slot);
            pairs_.pair_keys(true, slot);
            multiply_pairs_of_keys<1>(0, slot);
        });
        exponentiate(0, positions, result);
        for_each_block(positions, [&](const Positions& block, Index slot) {
            pairs_.find_values(block);
            const std::byte* ahead = pairs_.value_side().next;
            for (Index column = 0; column < width_; column += columns_at_once) {
                const auto values = pairs_.pair_columns(column, ahead);
                multiply_tiles<1, 2>({weights_.row(0) + slot * keys_per_block, keys_at_once, 0, 2 * amx_columns},
                                     {values.data(), columns_at_once, amx_columns, amx_columns * columns_at_once},
                                     keys_per_block / (2 * amx_columns),
                                     {result.sums(0) + column, result.stride(), 0, 16}, true);
            }
        });
    }

    /// Keys and values are paired once for all queries.
    void attend_many(const Positions& positions, PartialAttention<float> result) {
        for_each_block(positions, [&](const Positions& block, Index slot) {
            pairs_.find_scales(block);
            pairs_.find_keys(block);
            pairs_.pair_keys(false, slot);
            pairs_.find_values(block);
            pairs_.pair_values(slot);
        });
        const Index first = positions.first_slot(), end = positions.end_slot();
        const auto attend = [&](Index q, auto tiles) {
            for (Index slot = first; slot < end; ++slot) multiply_pairs_of_keys<tiles>(q, slot);
            exponentiate(q, positions, result);
            add_pairs_of_values<tiles>(q, first, end, result);
        };
        Index q = 0;
        for (; q + amx_rows < count_; q += queries_at_once) attend(q, std::integral_constant<int, 2>{});
        if (q < count_) attend(q, std::integral_constant<int, 1>{});
    }

    template <int tiles>
    void multiply_pairs_of_keys(Index q, Index slot) {
        for (Index key = 0; key < keys_per_block; key += 32)
            multiply_tiles<tiles, 2>(
                {queries_.row(q), width_, amx_rows * width_, 2 * amx_columns},
                {pairs_.keys(slot) + key, keys_per_block, 16, amx_columns * keys_per_block}, width_ / (2 * amx_columns),
                {scores_.row(0) + slot * keys_per_block + key, keys_at_once, amx_rows * keys_at_once, 16}, false);
    }

    template <int tiles>
    void add_pairs_of_values(Index q, Index first, Index end, PartialAttention<float> result) {
        const std::uint32_t* values = pairs_.values().row(first * keys_per_block / 2);
        const bfloat16* weights = weights_.row(0) + first * keys_per_block;
        for (Index column = 0; column < width_; column += 32)
            multiply_tiles<tiles, 2>({weights, keys_at_once, amx_rows * keys_at_once, 2 * amx_columns},
                                     {values + column, width_, 16, amx_columns * width_},
                                     (end - first) * keys_per_block / (2 * amx_columns),
                                     {result.sums(q) + column, result.stride(), amx_rows * result.stride(), 16}, true);
    }

    /// Two tiles of keys at a time. Registers 2, 3 and 5 have 16 rows, however many queries there are.
    void multiply_rows_of_keys(Index slot) {
        using Registers = AmxRegisters;
        const auto& keys = pairs_.key_side().rows;
        const Index stride = keys.stride * Index{sizeof(bfloat16)};
        const std::byte* ahead = pairs_.key_side().next;
        for (Index key = 0; key < keys_per_block; key += 2 * amx_rows) {
            Registers::clear<2>();
            Registers::clear<3>();
            for (Index column = 0; column < width_; column += 2 * amx_columns) {
                fetch_lines<2 * amx_rows>(ahead);
                Registers::load<6>(query_pairs_ + column / 2 * amx_columns);
                Registers::load<5>(keys.row(key) + column, stride);
                Registers::multiply_add<2, 5, 6>();
                Registers::load<5>(keys.row(key + amx_rows) + column, stride);
                Registers::multiply_add<3, 5, 6>();
            }
            Registers::store<2>(scores_by_key_ + key * amx_columns);
            Registers::store<3>(scores_by_key_ + (key + amx_rows) * amx_columns);
        }
        for (Index key = 0; key < keys_per_block; key += amx_rows)
            transpose(scores_by_key_ + key * amx_columns, amx_columns, scores_.row(0) + slot * keys_per_block + key,
                      keys_at_once);
    }

    /// The scores of queries from q on become weights, and their sums are multiplied with what the maxima ask for.
    void exponentiate(Index q, const Positions& positions, PartialAttention<float> result) {
        const Index last = std::min(place_.count(), q + queries_at_once);
        for (Index row = 0; q < last; ++q, ++row) {
            const Visible seen = visible(q);
            const bool sees_all = seen.covers(positions.block + positions.first_slot() * keys_per_block,
                                              positions.block + positions.end_slot() * keys_per_block);
            const float rescale = sees_all ? exponentiate_row<true>(q, row, seen, positions, result)
                                           : exponentiate_row<false>(q, row, seen, positions, result);
            if (rescale == 1) continue;
            float* sums = result.sums(q);
            for (Index i = 0; i < width_; i += vector)
                (Vector::load_aligned(sums + i) * Vector(rescale)).store_aligned(sums + i);
        }
    }

    template <bool sees_all>
    float exponentiate_row(Index q, Index row, Visible seen, const Positions& positions,
                           PartialAttention<float> result) {
        const Index first = positions.first_slot(), end = positions.end_slot();
        const auto for_each_masked = [&](auto visit) {
            for (Index slot = first; slot < end; ++slot) {
                const float* from = scores_.row(row) + slot * keys_per_block;
                __m512 scores[vectors];
                unroll<vectors>([&](auto v) { scores[v] = _mm512_load_ps(from + vector * v); });
                const std::uint64_t bits = sees_all ? all_keys : seen.mask(positions.block + slot * keys_per_block);
                hide_unseen(scores, bits, slot);
                visit(scores, bits, slot);
            }
        };
        __m512 most = _mm512_set1_ps(std::numeric_limits<float>::lowest());
        for_each_masked([&](auto& scores, auto, Index) { most = _mm512_max_ps(most, highest(scores)); });
        return Base::exponentiate(q, most, result, [&](__m512 maximum, Totals& totals) {
            for_each_masked([&](auto& scores, std::uint64_t bits, Index slot) {
                weigh(scores, bits, slot, maximum, totals, weights_.row(row) + slot * keys_per_block);
            });
        });
    }

    MatrixView<float> scores_;      // [queries at once, keys at once]
    MatrixView<bfloat16> weights_;  // likewise
    std::uint32_t* query_pairs_;    // [width / 2, 16 queries], where keys are taken as they lie
    float* scores_by_key_;          // [keys of a block, 16 queries], likewise
};

}  // namespace mistral::cpu
#endif

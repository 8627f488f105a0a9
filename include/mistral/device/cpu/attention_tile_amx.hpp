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
#include <span>
#include <type_traits>

namespace mistral::cpu {

/// Both products are those of tiles, for any number of queries: of 16, or fewer where there are no more. Where few
/// queries meet keys of bfloat16, these are left operands as they lie, and queries are rearranged; otherwise keys are.
template <class C>
requires std::same_as<C, bfloat16> || std::same_as<C, Q8>
class AttentionTile<C, Amx> : public PairedAttention<C> {
  public:
    /// Rows that a partial result needs for so many queries.
    [[nodiscard]] static Index padded(Index queries) {
        return queries <= amx_rows ? queries : round_up(queries, amx_rows);
    }

    /// Elements of scratch memory that a worker needs, a whole number of cache lines.
    [[nodiscard]] static Index scratch_size(const Shape& shape) {
        const Index queries = padded(Base::tokens_per_tile * shape.group());
        return Base::scratch_size(shape, queries) + queries * keys_per_block * 3 / 2 +
               amx_columns * (Base::width(shape) / 2 + keys_per_block);
    }

    AttentionTile(float* scratch, const HeadQueries& place)
        : AttentionTile(scratch, place, padded(Base::tokens_per_tile * place.shape.group())) {}

    void start(MatrixView<const float> queries) {
        Base::start(queries);
        const Index count = place_.count();
        std::fill_n(weights_.data() + count * keys_per_block, (count_ - count) * keys_per_block, bfloat16(0));
        if (takes_keys_as_they_lie())
            for (Index column = 0; column < width_; column += 2 * amx_columns)
                transpose_pairs(queries_.row(0) + column, width_, query_pairs_ + column / 2 * amx_columns, amx_columns);
    }

    void run(std::span<const KeyValueRun<C>> runs, Index first, Index last, PartialAttention<float> result) {
        const AmxRegisters registers(std::min(amx_rows, count_), amx_rows);
        for_blocks(runs, first, last, result, [&](const Positions& positions) { attend(positions, result); });
    }

  private:
    using Base = PairedAttention<C>;
    using Base::count_;
    using Base::exponentiate;
    using Base::for_blocks;
    using Base::mask;
    using Base::pairs_;
    using Base::place_;
    using Base::queries_;
    using Base::vector;
    using Base::vectors;
    using Base::width_;
    using typename Base::Positions;
    using typename Base::Vector;

    static constexpr Index columns_at_once = KeyValuePairs<C>::columns_at_once;
    static_assert(columns_at_once == 2 * amx_columns);

    AttentionTile(float* scratch, const HeadQueries& place, Index most_queries)
        : Base(scratch, place, most_queries, padded(place.count())),
          scores_(scratch + Base::scratch_size(place.shape, most_queries), most_queries, keys_per_block),
          weights_(reinterpret_cast<bfloat16*>(scores_.data() + most_queries * keys_per_block), most_queries,
                   keys_per_block),
          query_pairs_(reinterpret_cast<std::uint32_t*>(weights_.data() + most_queries * keys_per_block)),
          scores_by_key_(reinterpret_cast<float*>(query_pairs_ + amx_columns * width_ / 2)) {}

    [[nodiscard]] bool takes_keys_as_they_lie() const { return std::same_as<C, bfloat16> && count_ <= amx_rows; }

    void attend(const Positions& positions, PartialAttention<float> result) {
        pairs_.find_keys(positions);
        if (takes_keys_as_they_lie())
            multiply_rows_of_keys();
        else
            multiply_pairs_of_keys();
        pairs_.find_values(positions);
        for (Index q = 0; q < place_.count(); ++q) {
            Vector row[vectors];
            unroll<vectors>([&](auto v) { row[v] = Vector::load_aligned(scores_.row(q) + vector * v); });
            const float rescale = exponentiate(q, row, mask(q, positions.block), result, weights_.row(q));
            if (rescale == 1) continue;
            float* sums = result.sums(q);
            for (Index i = 0; i < width_; i += vector)
                (Vector::load_aligned(sums + i) * Vector(rescale)).store_aligned(sums + i);
        }
        if (count_ <= amx_rows)
            add_values_of_few(result);
        else
            add_values_of_many(result);
    }

    /// Values are paired once for all queries.
    void add_values_of_many(PartialAttention<float> result) {
        pairs_.pair_values(true);
        for_tiles([&](Index q, auto tiles) {
            for (Index column = 0; column < width_; column += 32)
                multiply_tiles<tiles, 2>({weights_.row(q), keys_per_block, amx_rows * keys_per_block, 2 * amx_columns},
                                         {pairs_.values().data() + column, width_, 16, amx_columns * width_},
                                         keys_per_block / (2 * amx_columns),
                                         {result.sums(q) + column, result.stride(), amx_rows * result.stride(), 16},
                                         true);
        });
    }

    /// For one tile of queries: some columns are paired and multiplied at once, from L1.
    void add_values_of_few(PartialAttention<float> result) {
        const std::byte* ahead = pairs_.value_side().next;
        for (Index column = 0; column < width_; column += columns_at_once) {
            const auto values = pairs_.pair_columns(column, ahead);
            multiply_tiles<1, 2>({weights_.row(0), keys_per_block, 0, 2 * amx_columns},
                                 {values.data(), columns_at_once, amx_columns, amx_columns * columns_at_once},
                                 keys_per_block / (2 * amx_columns), {result.sums(0) + column, result.stride(), 0, 16},
                                 true);
        }
    }

    void multiply_pairs_of_keys() {
        pairs_.pair_keys(true);
        for_tiles([&](Index q, auto tiles) {
            for (Index key = 0; key < keys_per_block; key += 32)
                multiply_tiles<tiles, 2>({queries_.row(q), width_, amx_rows * width_, 2 * amx_columns},
                                         {pairs_.keys() + key, keys_per_block, 16, amx_columns * keys_per_block},
                                         width_ / (2 * amx_columns),
                                         {scores_.row(q) + key, keys_per_block, amx_rows * keys_per_block, 16}, false);
        });
    }

    /// Two tiles of keys at a time. Registers 2, 3 and 5 have 16 rows, however many queries there are.
    void multiply_rows_of_keys() {
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
            transpose(scores_by_key_ + key * amx_columns, amx_columns, scores_.row(0) + key, keys_per_block);
    }

    /// Calls body(query, tiles) for two tiles of queries at a time, and for the last alone where they are odd.
    template <class Body>
    void for_tiles(Body body) const {
        Index q = 0;
        for (; q + amx_rows < count_; q += 2 * amx_rows) body(q, std::integral_constant<int, 2>{});
        if (q < count_) body(q, std::integral_constant<int, 1>{});
    }

    MatrixView<float> scores_;      // [queries, keys]
    MatrixView<bfloat16> weights_;  // [queries, keys]
    std::uint32_t* query_pairs_;    // [width / 2, 16 queries], where keys are taken as they lie
    float* scores_by_key_;          // [keys, 16 queries], likewise
};

}  // namespace mistral::cpu
#endif

#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/amx_product.hpp>
#include <mistral/device/cpu/attention_tile.hpp>
#include <mistral/device/cpu/key_value_pairs.hpp>
#include <mistral/device/cpu/paired_attention.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <concepts>
#include <span>
#include <type_traits>

namespace mistral::cpu {

/// Both products are those of tiles, for any number of queries: of 16, or fewer where there are no more.
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
        return Base::scratch_size(shape, queries) + queries * keys_per_block * 3 / 2;
    }

    AttentionTile(float* scratch, const HeadQueries& place)
        : AttentionTile(scratch, place, padded(Base::tokens_per_tile * place.shape.group())) {}

    void start(MatrixView<const float> queries) {
        Base::start(queries);
        const Index count = place_.count();
        std::fill_n(weights_.data() + count * keys_per_block, (count_ - count) * keys_per_block, bfloat16(0));
    }

    void run(std::span<const KeyValueRun<C>> runs, Index first, Index last, PartialAttention<float> result) {
        const AmxRegisters registers(std::min(amx_rows, count_));
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

    AttentionTile(float* scratch, const HeadQueries& place, Index most_queries)
        : Base(scratch, place, most_queries, padded(place.count())),
          scores_(scratch + Base::scratch_size(place.shape, most_queries), most_queries, keys_per_block),
          weights_(reinterpret_cast<bfloat16*>(scores_.data() + most_queries * keys_per_block), most_queries,
                   keys_per_block) {}

    void attend(const Positions& positions, PartialAttention<float> result) {
        pairs_.pair(positions, true);
        for_tiles([&](Index q, auto tiles) {
            for (Index key = 0; key < keys_per_block; key += 32)
                multiply_tiles<tiles, 2>({queries_.row(q), width_, amx_rows * width_, 2 * amx_columns},
                                      {pairs_.keys() + key, keys_per_block, 16, amx_columns * keys_per_block},
                                      width_ / (2 * amx_columns),
                                      {scores_.row(q) + key, keys_per_block, amx_rows * keys_per_block, 16}, false);
        });
        for (Index q = 0; q < place_.count(); ++q) {
            Vector row[vectors];
            unroll<vectors>([&](auto v) { row[v] = Vector::load_aligned(scores_.row(q) + vector * v); });
            const float rescale = exponentiate(q, row, mask(q, positions.block), result, weights_.row(q));
            if (rescale == 1) continue;
            float* sums = result.sums(q);
            for (Index i = 0; i < width_; i += vector)
                (Vector::load_aligned(sums + i) * Vector(rescale)).store_aligned(sums + i);
        }
        for_tiles([&](Index q, auto tiles) {
            for (Index column = 0; column < width_; column += 32)
                multiply_tiles<tiles, 2>({weights_.row(q), keys_per_block, amx_rows * keys_per_block, 2 * amx_columns},
                                      {pairs_.values().data() + column, width_, 16, amx_columns * width_},
                                      keys_per_block / (2 * amx_columns),
                                      {result.sums(q) + column, result.stride(), amx_rows * result.stride(), 16}, true);
        });
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
};

}  // namespace mistral::cpu
#endif

#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/device/cpu/attention_tile.hpp>
#include <mistral/device/cpu/avx512_pairs.hpp>
#include <mistral/device/cpu/key_value_run.hpp>
#include <mistral/device/cpu/partial_attention.hpp>
#include <mistral/device/cpu/prefetch.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/scalar/cached_row.hpp>

#if defined(MISTRAL_HAS_AVX512_DOT)
#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace mistral::cpu {

/// Asks for the lines at `ahead`, if any, and moves on.
template <std::size_t lines>
void fetch_lines(const std::byte*& ahead) {
    if (ahead == nullptr) return;
    unroll<lines>([&](auto i) { prefetch(ahead + cache_line * i); });
    ahead += static_cast<Index>(lines) * cache_line;
}

/// The keys and values of one head in a block of positions, where they lie; and in `blocks` of them, rearranged into
/// pairs.
template <class C, Index blocks>
class KeyValuePairs {
  public:
    using Element = CachedElement<C>;
    static constexpr bool has_scales = std::same_as<C, Q8>;
    static constexpr Index columns_at_once = 32;

    /// The positions first … last - 1 of one block, or of several: what the others hold counts as zeros.
    struct Positions {
        std::span<const KeyValueRun<C>> runs;
        Index block;
        Index first;
        Index last;

        /// The blocks that have some, by their numbers from the first on.
        [[nodiscard]] Index first_slot() const { return (first - block) / keys_per_block; }
        [[nodiscard]] Index end_slot() const { return divide_up(last - block, keys_per_block); }
    };

    /// Keys or values in memory, width elements each.
    struct Rows {
        const Element* first;
        Index stride;

        [[nodiscard]] const Element* row(Index i) const { return first + i * stride; }
    };

    /// Keys or values of the block at hand.
    struct Side {
        Rows rows;
        const std::byte* next = nullptr;                                ///< the next block's in memory, if they follow
        alignas(64) std::array<float, blocks * keys_per_block> scales;  ///< of all blocks, where they have any
    };

    /// head_dim, padded to whole cache lines of the cache's elements.
    [[nodiscard]] static Index width(const Shape& shape) { return round_up(shape.head_dim, elements_per_line); }

    /// Elements of scratch memory, a whole number of cache lines.
    [[nodiscard]] static Index scratch_size(const Shape& shape) {
        return keys_per_block * width(shape) * (2 * blocks + 1) / 2;
    }

    KeyValuePairs(float* scratch, const HeadQueries& place)
        : place_(place),
          width_(width(place.shape)),
          keys_(reinterpret_cast<std::uint32_t*>(scratch), blocks * width_ / 2, keys_per_block),
          values_(keys_.data() + keys_.rows() * keys_per_block, blocks * keys_per_block / 2, width_),
          gathered_(reinterpret_cast<Element*>(values_.data() + values_.rows() * width_), keys_per_block, width_) {}

    /// Looks up a block's keys, or its values. Where they have to be gathered, this overwrites those of the call
    /// before.
    void find_keys(const Positions& positions) { find(positions, &KeyValueRun<C>::keys, key_side_); }
    void find_values(const Positions& positions) { find(positions, &KeyValueRun<C>::values, value_side_); }
    /// Looks up a block's scales, where there are any.
    void find_scales([[maybe_unused]] const Positions& positions) {
        if constexpr (has_scales) {
            find_scales(positions, &KeyValueRun<C>::keys, key_side_);
            find_scales(positions, &KeyValueRun<C>::values, value_side_);
        }
    }
    [[nodiscard]] const Side& key_side() const { return key_side_; }
    [[nodiscard]] const Side& value_side() const { return value_side_; }

    /// As pair_keys made them, [width / 2, keys_per_block] for each block.
    [[nodiscard]] const std::uint32_t* keys(Index slot) const { return keys_.row(slot * width_ / 2); }
    /// As pair_values made them, [blocks * keys_per_block / 2, width].
    [[nodiscard]] MatrixView<const std::uint32_t> values() const { return values_; }
    /// Of keys_per_block * width elements of the cache, free until keys are looked up.
    [[nodiscard]] float* free_memory() const { return reinterpret_cast<float*>(gathered_.data()); }

    /// Rearranges all keys of the block that were looked up, or values, as the pairs of block `slot`. Where it is to
    /// fetch, the next block's memory is asked for meanwhile.
    void pair_keys(bool fetches, Index slot) {
        pair_keys<keys_per_block>(0, fetches ? key_side_.next : nullptr, keys_.row(slot * width_ / 2));
    }
    void pair_values(Index slot) {
        const std::byte* ahead = nullptr;
        for (Index key = 0; key < keys_per_block; key += 2)
            for (Index column = 0; column < width_; column += columns_at_once)
                interleave_values(key, column, values_.row((slot * keys_per_block + key) / 2) + column, ahead);
    }

    /// Rearranges some columns of the values: [keys_per_block / 2, columns_at_once] pairs, which last until the call
    /// after the next.
    [[nodiscard]] MatrixView<const std::uint32_t> pair_columns(Index column, const std::byte*& ahead) {
        const MatrixView<std::uint32_t> pairs(values_.data() + column % (2 * columns_at_once) * keys_per_block / 2,
                                              keys_per_block / 2, columns_at_once);
        for (Index key = 0; key < keys_per_block; key += 2) interleave_values(key, column, pairs.row(key / 2), ahead);
        return pairs;
    }

    /// Transposes `count` of the keys: [width / 2, count] pairs of elements of a key.
    template <Index count>
    void pair_keys(Index from, const std::byte* ahead) {
        pair_keys<count>(from, ahead, keys_.data());
    }

  private:
    static constexpr Index elements_per_line = cache_line / Index{sizeof(Element)};

    template <Index count>
    void pair_keys(Index from, const std::byte* ahead, std::uint32_t* to) const {
        constexpr Index vector = 16;
        for (Index key = 0; key < count; key += vector)
            for (Index column = 0; column < width_; column += elements_per_line) {
                fetch_lines<vector>(ahead);
                transpose_pairs(key_side_.rows.row(from + key) + column, key_side_.rows.stride,
                                to + column / 2 * count + key, count);
            }
    }

    /// The columns from `column` on of the values of two keys, as pairs.
    void interleave_values(Index key, Index column, std::uint32_t* to, const std::byte*& ahead) const {
        fetch_lines<has_scales ? 1 : 2>(ahead);
        __m512i pairs[2];
        interleave(value_side_.rows.row(key) + column, value_side_.rows.row(key + 1) + column, pairs);
        _mm512_store_si512(to, pairs[0]);
        _mm512_store_si512(to + columns_at_once / 2, pairs[1]);
    }

    /// Calls body(index in the block, row) for the keys or values of the block.
    template <class Body>
    void for_each_row(const Positions& positions, const Element* KeyValueRun<C>::*memory, Body body) const {
        for (const KeyValueRun<C>& run : positions.runs)
            for (Index p = std::max(positions.first, run.position);
                 p < std::min(positions.last, run.position + run.count); ++p)
                body(p - positions.block, run.*memory + place_.offset(run, p));
    }

    void find_scales(const Positions& positions, const Element* KeyValueRun<C>::*memory, Side& side) const {
        float* const scales = side.scales.data() + positions.block % (blocks * keys_per_block);
        std::fill_n(scales, keys_per_block, 0.0f);
        for_each_row(positions, memory,
                     [&](Index i, const Element* row) { scales[i] = CachedRow<C>::scale(row, place_.shape.head_dim); });
    }

    /// The block's keys or values where they are, if all of them are there and are whole cache lines; otherwise
    /// gathered.
    void find(const Positions& positions, const Element* KeyValueRun<C>::*memory, Side& side) {
        side.next = nullptr;
        if (width_ == place_.shape.head_dim && positions.last - positions.first == keys_per_block)
            for (const KeyValueRun<C>& run : positions.runs)
                if (run.position <= positions.first && positions.last <= run.position + run.count) {
                    side.rows = {run.*memory + place_.offset(run, positions.first), run.position_stride};
                    if (side.rows.stride == CachedRow<C>::size(width_))
                        side.next = reinterpret_cast<const std::byte*>(side.rows.row(keys_per_block));
                    return;
                }
        std::fill_n(gathered_.data(), keys_per_block * width_, Element(0));
        for_each_row(positions, memory,
                     [&](Index i, const Element* row) { std::copy_n(row, place_.shape.head_dim, gathered_.row(i)); });
        side.rows = {gathered_.data(), width_};
    }

    HeadQueries place_;
    Index width_;
    MatrixView<std::uint32_t> keys_;
    MatrixView<std::uint32_t> values_;
    MatrixView<Element> gathered_;  // [keys_per_block, width]
    Side key_side_;
    Side value_side_;
};

}  // namespace mistral::cpu
#endif

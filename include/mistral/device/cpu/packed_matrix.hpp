#pragma once

#include <mistral/base/aligned_buffer.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/scalar/quantization.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// A quantised matrix [rows, cols] in the order in which kernels read it: panels of 32 rows, and in each one group of
/// inputs after the other. A group begins with the scales of the rows, then come the codes, by quads of inputs:
///
///   Q8   16 quads of 32 rows of 4 bytes: level + 128
///   Q4   8 pairs of quads of 32 rows of 4 bytes: the index of the level of the first quad in the lower half, that of
///        the second in the upper
///
/// which makes whole cache lines. Rows and inputs are padded with zero scales. Copies share the memory.
template <QuantizedScalar Q>
class PackedMatrix {
  public:
    static constexpr Index panel_rows = 32;
    static constexpr Index quad = 4;
    static constexpr Index scale_bytes = panel_rows * static_cast<Index>(sizeof(half));
    static constexpr Index code_bytes = panel_rows * group_size / (std::same_as<Q, Q8> ? 1 : 2);
    static constexpr Index group_bytes = scale_bytes + code_bytes;
    static constexpr Index pair_bytes = 2 * quad * code_bytes / group_size;  ///< the codes of two quads of inputs

    /// Names the order in files: another text for another order.
    static constexpr std::string_view layout = "panels of 32 rows, version 1";

    PackedMatrix() = default;

    /// The matrix of which `data` are the bytes(): bytes_of(rows, cols) of them, aligned to 64, which `owner` keeps
    /// alive.
    PackedMatrix(std::shared_ptr<const void> owner, const std::byte* data, Index rows, Index cols)
        : owner_(std::move(owner)), data_(data), rows_(rows), cols_(cols) {}

    /// Quantises the rows that read(row, float* to) gives, which is called from all of the pool's threads.
    template <class Read>
    PackedMatrix(ThreadPool& pool, Index rows, Index cols, Read&& read) : rows_(rows), cols_(cols) {
        const auto memory = std::make_shared<AlignedBuffer<std::byte>>(bytes_of(rows, cols), Pages::huge);
        data_ = memory->data();
        owner_ = memory;
        const Index width = groups() * group_size;
        std::vector<float> scratch(static_cast<std::size_t>(pool.threads() * width));
        pool.for_each(panels(), [&](Index worker, Index panel) noexcept {
            std::byte* const to = memory->data() + panel * panel_bytes();
            std::memset(to, 0, static_cast<std::size_t>(panel_bytes()));
            float* const row = scratch.data() + worker * width;
            for (Index r = 0; r < std::min(panel_rows, rows_ - panel * panel_rows); ++r) {
                read(panel * panel_rows + r, row);
                for_each_quantized_group<Q>(row, cols_, [&](Index group, const QuantizedGroup& quantized) {
                    write(quantized, r, to + group * group_bytes);
                });
            }
        });
    }

    [[nodiscard]] Index rows() const { return rows_; }
    [[nodiscard]] Index cols() const { return cols_; }
    [[nodiscard]] Index panels() const { return divide_up(rows_, panel_rows); }
    [[nodiscard]] Index groups() const { return groups_of(cols_); }
    [[nodiscard]] Index panel_bytes() const { return groups() * group_bytes; }
    [[nodiscard]] const std::byte* panel(Index i) const { return data_ + i * panel_bytes(); }

    /// All panels, one after the other.
    [[nodiscard]] std::span<const std::byte> bytes() const {
        return {data_, static_cast<std::size_t>(bytes_of(rows_, cols_))};
    }

    /// How many bytes a matrix [rows, cols] takes: a multiple of 64.
    [[nodiscard]] static Index bytes_of(Index rows, Index cols) {
        const PackedMatrix matrix(nullptr, nullptr, rows, cols);
        return matrix.panels() * matrix.panel_bytes();
    }

    /// The weight that stands for that of row and column.
    [[nodiscard]] float weight(Index row, Index col) const {
        const std::byte* group = panel(row / panel_rows) + col / group_size * group_bytes;
        half scale;
        std::memcpy(&scale, group + row % panel_rows * static_cast<Index>(sizeof(half)), sizeof(half));
        return static_cast<float>(scale) *
               static_cast<float>(level(group + scale_bytes, row % panel_rows, col % group_size)) / level_unit;
    }

  private:
    /// Where the code of input i of a group lies, behind the scales.
    [[nodiscard]] static Index code_offset(Index row, Index i) {
        constexpr Index inputs_per_step = std::same_as<Q, Q8> ? quad : 2 * quad;
        return i / inputs_per_step * panel_rows * quad + row * quad + i % quad;
    }
    [[nodiscard]] static bool in_upper_half(Index i) { return std::same_as<Q, Q4> && i % (2 * quad) >= quad; }

    static void write(const QuantizedGroup& group, Index row, std::byte* to) {
        std::memcpy(to + row * static_cast<Index>(sizeof(half)), &group.scale, sizeof(half));
        for (Index i = 0; i < group_size; ++i) {
            const std::int8_t level = group.levels[static_cast<std::size_t>(i)];
            std::byte& code = to[scale_bytes + code_offset(row, i)];
            if constexpr (std::same_as<Q, Q8>) {
                code = static_cast<std::byte>(level + 128);
            } else {
                const auto index = static_cast<std::byte>(q4_index(level));
                code |= in_upper_half(i) ? index << 4 : index;
            }
        }
    }

    [[nodiscard]] static int level(const std::byte* codes, Index row, Index i) {
        const auto code = static_cast<unsigned>(codes[code_offset(row, i)]);
        if constexpr (std::same_as<Q, Q8>)
            return static_cast<int>(code) - 128;
        else
            return q4_levels[in_upper_half(i) ? code >> 4 : code & 15];
    }

    std::shared_ptr<const void> owner_;
    const std::byte* data_ = nullptr;
    Index rows_ = 0;
    Index cols_ = 0;
};

}  // namespace mistral

#pragma once

#include <mistral/base/types.hpp>
#include <mistral/scalar/quantization.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace mistral::cpu {

/// A group of a token's activations as integers of 15 or 8 bits over a common scale. Where digits have 8 bits, integers
/// of 15 are two planes of digits of 7. Weights are unsigned in the products, level + 128: the sum of the digits times
/// -128 makes up for that.
template <int bits, class Digit>
struct TokenGroup {
    static constexpr int planes = bits == 15 && sizeof(Digit) == 1 ? 2 : 1;
    static constexpr float largest = bits == 15 ? 127 * 128 + 63 : 127;
    static constexpr float smallest = 1e-34f;  ///< smaller ones count as zero: largest / smallest is finite

    using Plane = std::array<Digit, std::size_t{group_size}>;

    std::array<Plane, planes> digits;          ///< the upper plane first
    std::array<std::int32_t, planes> offsets;  ///< -128 times the sum of each plane
    float scale;                               ///< of the integers, over 128

    explicit TokenGroup(const GroupValues& x) {
        const float extreme = largest_magnitude(x);
        scale = extreme / largest / level_unit;
        if (!(smallest <= extreme && extreme <= std::numeric_limits<float>::max())) {
            digits = {};  // of which a scale that is infinite or NaN makes NaN
            offsets = {};
            return;
        }
        const float inverse = largest / extreme;
        std::array<std::int32_t, std::size_t{group_size}> rest;
        for (std::size_t i = 0; i < x.size(); ++i) rest[i] = static_cast<std::int32_t>(nearest_integer(x[i] * inverse));
        if constexpr (planes == 2) {
            std::array<std::int32_t, std::size_t{group_size}> upper;
            for (std::size_t i = 0; i < x.size(); ++i) upper[i] = (rest[i] + 64) >> 7;
            for (std::size_t i = 0; i < x.size(); ++i) rest[i] -= 128 * upper[i];
            set_plane(0, upper);
        }
        set_plane(planes - 1, rest);
    }

  private:
    // Loops over whole groups without a branch, which compilers turn into vectors.

    /// NaN where one of them is: as integers, magnitudes are in the same order, infinity and then NaN above all.
    static float largest_magnitude(const GroupValues& x) {
        std::int32_t most = 0;
        for (const float value : x) most = std::max(most, std::bit_cast<std::int32_t>(std::abs(value)));
        return std::bit_cast<float>(most);
    }

    void set_plane(std::size_t plane, const std::array<std::int32_t, std::size_t{group_size}>& numbers) {
        std::int32_t sum = 0;
        for (const std::int32_t number : numbers) sum += number;
        for (std::size_t i = 0; i < numbers.size(); ++i) digits[plane][i] = static_cast<Digit>(numbers[i]);
        offsets[plane] = -128 * sum;
        if constexpr (sizeof(Digit) == 2) {
            // In every quad, the second and the third change places.
            auto quads = std::bit_cast<std::array<std::uint64_t, std::size_t{group_size} / 4>>(digits[plane]);
            for (std::uint64_t& quad : quads)
                quad = (quad & 0xffff'0000'0000'ffff) | (quad >> 16 & 0xffff'0000) | (quad & 0xffff'0000) << 16;
            digits[plane] = std::bit_cast<Plane>(quads);
        }
    }
};

/// Calls body(g, group) for the groups of a token's x [inputs], the last padded with zeros.
template <class Group, class Body>
void for_each_group(const float* x, Index inputs, Body body) {
    for (Index g = 0; inputs > 0; ++g, inputs -= group_size, x += group_size) {
        GroupValues values{};
        std::copy_n(x, std::min(group_size, inputs), values.begin());
        body(g, Group(values));
    }
}

}  // namespace mistral::cpu

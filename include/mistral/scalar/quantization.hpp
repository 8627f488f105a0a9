#pragma once

#include <mistral/base/types.hpp>
#include <mistral/scalar/scalar.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

/// The quantised formats, whatever the order in which a device keeps them. A row of weights is cut into groups of 64
/// consecutive inputs; a weight is scale * level / 128, with one binary16 scale per group and one integer level per
/// weight. Q8 has every level from -127 to 127, Q4 the sixteen of `q4_levels`.
namespace mistral {

inline constexpr Index group_size = 64;
inline constexpr float level_unit = 128;  // keeps scales near the weights themselves, inside the range of binary16

/// The levels that Lloyd's algorithm finds for trained weights of a Mistral, in groups of 64 scaled as here, with the
/// largest at -127: about as close together as weights of a normal distribution lie. Their mean square error is a
/// tenth below that of sixteen equally spaced levels in groups of 32, whose scales cost twice as much.
inline constexpr std::array<std::int8_t, 16> q4_levels{-127, -100, -79, -62, -47, -34, -21, -10,
                                                       2,    13,   25,  37,  50,  66,  84,  109};

/// One group: its scale, and the level of each weight.
struct QuantizedGroup {
    half scale{0.0f};
    std::array<std::int8_t, group_size> levels{};

    [[nodiscard]] float weight(Index i) const {
        return static_cast<float>(scale) * static_cast<float>(levels[static_cast<std::size_t>(i)]) / level_unit;
    }
};

/// The nearest level of Q for each weight / (scale / 128).
template <QuantizedScalar Q>
void nearest_levels(std::span<const float, group_size> weights, half scale,
                    std::array<std::int8_t, group_size>& levels) {
    const float rounded_scale = static_cast<float>(scale);
    const float inverse = rounded_scale == 0 ? 0 : level_unit / rounded_scale;
    for (std::size_t i = 0; i < levels.size(); ++i)
        levels[i] = static_cast<std::int8_t>(std::clamp(std::nearbyint(weights[i] * inverse), -127.0f, 127.0f));
    if constexpr (std::same_as<Q, Q4>) {
        std::array<std::int8_t, group_size> found;
        found.fill(q4_levels[0]);
        for (std::size_t j = 1; j < q4_levels.size(); ++j) {
            const int twice_boundary = q4_levels[j - 1] + q4_levels[j];
            const int step = q4_levels[j] - q4_levels[j - 1];
            for (std::size_t i = 0; i < levels.size(); ++i)
                found[i] = static_cast<std::int8_t>(found[i] + (2 * levels[i] > twice_boundary ? step : 0));
        }
        levels = found;
    }
}

/// The levels of the least square error for a scale, which is fitted to them once more.
template <QuantizedScalar Q>
[[nodiscard]] QuantizedGroup fitted_group(std::span<const float, group_size> weights, float scale) {
    QuantizedGroup group{.scale = static_cast<half>(scale)};
    nearest_levels<Q>(weights, group.scale, group.levels);
    float products = 0;
    float squares = 0;
    for (std::size_t i = 0; i < group.levels.size(); ++i) {
        const auto level = static_cast<float>(group.levels[i]);
        products += level * weights[i];
        squares += level * level;
    }
    if (squares > 0) group.scale = static_cast<half>(level_unit * products / squares);
    return group;
}

[[nodiscard]] inline float square_error(std::span<const float, group_size> weights, const QuantizedGroup& group) {
    float sum = 0;
    for (std::size_t i = 0; i < group.levels.size(); ++i) {
        const float error = weights[i] - group.weight(static_cast<Index>(i));
        sum += error * error;
    }
    return sum;
}

/// Quantises a group. Q8 scales the weight of the largest magnitude to the last level. Q4 tries several levels for it,
/// on either side, and keeps the best, since one that is cut off a little can be worth the others' precision.
template <QuantizedScalar Q>
[[nodiscard]] QuantizedGroup quantize(std::span<const float, group_size> weights) {
    const float extreme =
        *std::max_element(weights.begin(), weights.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
    if (extreme == 0) return {};
    if constexpr (std::same_as<Q, Q8>) {
        QuantizedGroup group{.scale = static_cast<half>(std::abs(extreme) * level_unit / 127)};
        nearest_levels<Q8>(weights, group.scale, group.levels);
        return group;
    } else {
        constexpr std::array<float, 6> extreme_levels{-127, 109, -137, 118, -118, 101};
        QuantizedGroup best;
        float least = INFINITY;
        for (const float level : extreme_levels) {
            const QuantizedGroup group = fitted_group<Q4>(weights, level_unit * extreme / level);
            const float error = square_error(weights, group);
            if (error < least) {
                best = group;
                least = error;
            }
        }
        return best;
    }
}

}  // namespace mistral

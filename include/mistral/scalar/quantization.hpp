#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/base/types.hpp>
#include <mistral/scalar/scalar.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>

/// The quantised formats, whatever the order in which a device keeps them. A row of weights is cut into groups of 64
/// consecutive inputs; a weight is scale * level / 128, with one binary16 scale per group and one integer level per
/// weight. Q8 has every level from -127 to 127, Q4 the sixteen of `q4_levels`.
namespace mistral {

/// Counts the changes that give the same weights another scale or other levels: files of quantised weights name it.
inline constexpr int quantization_version = 1;

inline constexpr Index group_size = 64;

/// Groups of a row of so many inputs, the last one padded.
[[nodiscard]] constexpr Index groups_of(Index inputs) {
    return divide_up(inputs, group_size);
}

inline constexpr float level_unit = 128;        ///< keeps scales near the weights, inside the range of binary16
inline constexpr float largest_weight = 32768;  ///< that scales can stand for, with room for those that cut it off

/// The levels that Lloyd's algorithm finds for trained weights of a Mistral, in groups of 64 scaled as here, with the
/// largest at -127: about as close together as weights of a normal distribution lie. Their mean square error is a
/// tenth below that of sixteen equally spaced levels in groups of 32, whose scales cost twice as much.
inline constexpr std::array<std::int8_t, 16> q4_levels{-127, -100, -79, -62, -47, -34, -21, -10,
                                                       2,    13,   25,  37,  50,  66,  84,  109};

/// Which of them a level is.
[[nodiscard]] inline std::size_t q4_index(std::int8_t level) {
    return static_cast<std::size_t>(std::lower_bound(q4_levels.begin(), q4_levels.end(), level) - q4_levels.begin());
}

/// The weights of one group, and their levels while they are being chosen.
using GroupValues = std::array<float, static_cast<std::size_t>(group_size)>;

/// A group as it is stored: its scale, and the level of each weight.
struct QuantizedGroup {
    half scale{0.0f};
    std::array<std::int8_t, static_cast<std::size_t>(group_size)> levels{};

    [[nodiscard]] float weight(Index i) const {
        return static_cast<float>(scale) * static_cast<float>(levels[static_cast<std::size_t>(i)]) / level_unit;
    }
};

/// The integer nearest to a number below 2^22, ties to even: without a branch or a call, so that loops of it become
/// vectors.
[[nodiscard]] inline float nearest_integer(float x) {
    constexpr float integers = 12582912;  // 1.5 * 2^23: added to a small number, it leaves no room for a fraction
    return (x + integers) - integers;
}

/// Looks for the scale of a group: the search behind `quantize`. Its loops are such that compilers turn them into
/// vectors, sums in sixteen lanes, for they run over every weight of a model a dozen times.
template <QuantizedScalar Q>
class ScaleSearch {
  public:
    explicit ScaleSearch(const GroupValues& weights) : weights_(weights) {}

    [[nodiscard]] QuantizedGroup best() {
        const float extreme = *std::max_element(weights_.begin(), weights_.end(),
                                                [](float a, float b) { return std::abs(a) < std::abs(b); });
        QuantizedGroup group;
        if (extreme == 0) return group;
        float least = std::numeric_limits<float>::infinity();
        for (const float level : extreme_levels()) {
            const half scale = fit(level_unit * extreme / level);
            const float error = square_error(scale);
            if (!(error < least)) continue;
            least = error;
            group.scale = scale;
            for (std::size_t i = 0; i < levels_.size(); ++i) group.levels[i] = static_cast<std::int8_t>(levels_[i]);
        }
        return group;
    }

  private:
    static constexpr std::size_t lanes = 16;

    /// Levels to try for the weight of the largest magnitude, on either side of zero where these differ. In Q4 one that
    /// is cut off a little can be worth the others' precision; in Q8 a scale hardly larger can round them by far less.
    static constexpr auto extreme_levels() {
        if constexpr (std::same_as<Q, Q8>) {
            std::array<float, 20> levels{};
            for (std::size_t i = 0; i < levels.size(); ++i) levels[i] = 127 - 0.4f * static_cast<float>(i);
            return levels;
        } else {
            return std::array<float, 6>{-127, 109, -137, 118, -118, 101};
        }
    }

    /// Chooses the nearest levels under a scale, and returns the scale that suits them best.
    half fit(float scale) {
        const float stored = static_cast<float>(static_cast<half>(scale));
        find_levels(stored == 0 ? 0 : level_unit / stored);
        const float squares = sum([this](std::size_t i) { return levels_[i] * levels_[i]; });
        const float products = sum([this](std::size_t i) { return levels_[i] * weights_[i]; });
        return static_cast<half>(squares > 0 ? level_unit * products / squares : 0.0f);
    }

    void find_levels(float inverse) {
        for (std::size_t i = 0; i < levels_.size(); ++i)
            levels_[i] = std::min(std::max(weights_[i] * inverse, -127.0f), 127.0f);
        if constexpr (std::same_as<Q, Q8>) {
            for (float& level : levels_) level = nearest_integer(level);
        } else {
            const GroupValues exact = levels_;
            levels_.fill(q4_levels[0]);
            for (std::size_t j = 1; j < q4_levels.size(); ++j) {
                const float boundary = static_cast<float>(q4_levels[j - 1] + q4_levels[j]) / 2;
                const auto step = static_cast<float>(q4_levels[j] - q4_levels[j - 1]);
                for (std::size_t i = 0; i < levels_.size(); ++i) levels_[i] += exact[i] > boundary ? step : 0.0f;
            }
        }
    }

    [[nodiscard]] float square_error(half scale) const {
        const float factor = static_cast<float>(scale) / level_unit;
        return sum([this, factor](std::size_t i) {
            const float error = weights_[i] - factor * levels_[i];
            return error * error;
        });
    }

    template <class Term>
    [[nodiscard]] static float sum(Term term) {
        std::array<float, lanes> partial{};
        for (std::size_t i = 0; i < std::size_t{group_size}; i += lanes)
            for (std::size_t lane = 0; lane < lanes; ++lane) partial[lane] += term(i + lane);
        for (std::size_t half_lanes = lanes / 2; half_lanes > 0; half_lanes /= 2)
            for (std::size_t lane = 0; lane < half_lanes; ++lane) partial[lane] += partial[lane + half_lanes];
        return partial[0];
    }

    const GroupValues& weights_;
    GroupValues levels_{};
};

/// Quantises a group of finite weights of at most `largest_weight`, with the scale, of those tried, that leaves the
/// least square error.
template <QuantizedScalar Q>
[[nodiscard]] QuantizedGroup quantize(const GroupValues& weights) {
    return ScaleSearch<Q>(weights).best();
}

/// Quantises a row of `cols` weights, behind which there is room to pad the last group with zeros, and calls
/// visit(group, QuantizedGroup) for all its groups in order.
template <QuantizedScalar Q, class Visit>
void for_each_quantized_group(float* row, Index cols, Visit&& visit) {
    std::fill(row + cols, row + groups_of(cols) * group_size, 0.0f);
    for (Index group = 0; group < groups_of(cols); ++group) {
        GroupValues weights;
        std::copy_n(row + group * group_size, group_size, weights.begin());
        visit(group, quantize<Q>(weights));
    }
}

}  // namespace mistral

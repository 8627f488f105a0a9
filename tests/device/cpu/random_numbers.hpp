#pragma once

#include <mistral/base/types.hpp>

#include <cstddef>
#include <random>
#include <vector>

/// So many numbers of the standard normal distribution.
[[nodiscard]] inline std::vector<float> random_numbers(mistral::Index count, std::mt19937& random) {
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = normal(random);
    return values;
}

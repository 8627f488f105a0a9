#include <mistral/scalar/quantization.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

using namespace mistral;

namespace {

GroupValues normal_group(std::mt19937& random, float deviation) {
    std::normal_distribution<float> normal(0, deviation);
    GroupValues weights;
    for (float& weight : weights) weight = normal(random);
    return weights;
}

double square_error(const GroupValues& weights, const QuantizedGroup& group) {
    double sum = 0;
    for (Index i = 0; i < group_size; ++i)
        sum += std::pow(static_cast<double>(weights[static_cast<std::size_t>(i)]) - group.weight(i), 2);
    return sum;
}

/// The levels that Q has.
template <QuantizedScalar Q>
std::vector<int> levels() {
    if constexpr (std::same_as<Q, Q4>) return {q4_levels.begin(), q4_levels.end()};
    std::vector<int> all;
    for (int level = -127; level <= 127; ++level) all.push_back(level);
    return all;
}

}  // namespace

TEST_CASE_TEMPLATE("every level is one of the format's, and no other level beside it would be much nearer", Q, Q8, Q4) {
    std::mt19937 random(3);
    const auto all = levels<Q>();
    for (const float deviation : {1e-6f, 1e-3f, 0.02f, 1.0f, 1000.0f}) {
        const auto weights = normal_group(random, deviation);
        const auto group = quantize<Q>(weights);
        const double unit = static_cast<double>(group.scale) / level_unit;
        for (std::size_t i = 0; i < weights.size(); ++i) {
            CHECK(std::binary_search(all.begin(), all.end(), int{group.levels[i]}));
            double nearest = std::numeric_limits<double>::infinity();
            for (const int level : all) nearest = std::min(nearest, std::abs(weights[i] - unit * level));
            // Levels are chosen before their scale is fitted once more, which moves them by a few hundredths.
            CHECK(std::abs(weights[i] - unit * group.levels[i]) <=
                  nearest + 0.06 * std::abs(weights[i]) + std::abs(unit));
        }
    }
}

TEST_CASE_TEMPLATE("the search is no worse than the largest weight at the last level", Q, Q8, Q4) {
    std::mt19937 random(4);
    const auto all = levels<Q>();
    double searched = 0;
    double plain = 0;
    for (int n = 0; n < 200; ++n) {
        const auto weights = normal_group(random, 0.02f);
        searched += square_error(weights, quantize<Q>(weights));
        const float extreme = *std::max_element(weights.begin(), weights.end(),
                                                [](float a, float b) { return std::abs(a) < std::abs(b); });
        QuantizedGroup group{.scale = static_cast<half>(-extreme * level_unit / 127)};
        const double unit = static_cast<double>(group.scale) / level_unit;
        for (std::size_t i = 0; i < weights.size(); ++i)
            group.levels[i] = static_cast<std::int8_t>(*std::min_element(all.begin(), all.end(), [&](int a, int b) {
                return std::abs(weights[i] - unit * a) < std::abs(weights[i] - unit * b);
            }));
        plain += square_error(weights, group);
    }
    CHECK(searched < 0.95 * plain);
}

TEST_CASE_TEMPLATE("zeros, single weights, and the smallest and largest of them are kept", Q, Q8, Q4) {
    const auto zeros = quantize<Q>({});
    for (Index i = 0; i < group_size; ++i) CHECK(zeros.weight(i) == 0);
    for (const float weight : {1.0f, -1.0f, 1e-7f, -3e-5f, 0.37f, -largest_weight, largest_weight}) {
        GroupValues weights{};
        weights[17] = weight;
        const auto group = quantize<Q>(weights);
        CAPTURE(weight);
        // Scales of binary16 have 11 bits, and less below 6e-5; Q4 has no zero, but a level of 2 / 128 of the largest.
        const double precision = std::abs(weight) < 6e-5f ? 0.3 : 0.02;
        CHECK(std::abs(group.weight(17) - weight) <= precision * std::abs(weight));
        for (Index i = 0; i < group_size; ++i) {
            CHECK(std::isfinite(group.weight(i)));
            if (i != 17) CHECK(std::abs(group.weight(i)) <= 0.03 * std::abs(weight));
        }
    }
}

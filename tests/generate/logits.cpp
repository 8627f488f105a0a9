#include <mistral/generate/logits.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <mistral/generate/random.hpp>

#include "message_of.hpp"

using namespace mistral;

namespace {

/// Some of whose logits are equal, and some -infinity.
template <class A>
std::vector<A> random_logits(Random& random, std::size_t count) {
    std::vector<A> logits;
    for (std::size_t i = 0; i < count; ++i) {
        const double number = random.uniform();
        logits.push_back(number < 0.1   ? -std::numeric_limits<A>::infinity()
                         : number < 0.5 ? static_cast<A>(std::floor(20 * number))
                                        : static_cast<A>(40 * number - 30));
    }
    logits[count / 2] = A(1);
    return logits;
}

}  // namespace

// Whole vectors, and all that can be left behind them.
TEST_CASE_TEMPLATE("passes over any number of logits do what loops over single ones do", A, float, double) {
    Random random(3);
    std::vector<std::size_t> counts(70);
    std::iota(counts.begin(), counts.end(), 1);
    counts.insert(counts.end(), {127, 128, 129, 300});  // exponentials are computed by 128
    for (const std::size_t count : counts) {
        const std::vector<A> logits = random_logits<A>(random, count);
        const A largest = *std::max_element(logits.begin(), logits.end());
        CHECK(largest_logit(std::span(logits)) == largest);

        for (const A least : {A(1), A(5), largest, -std::numeric_limits<A>::infinity()}) {
            std::vector<std::size_t> found, expected;
            for_each_at_least(std::span(logits), least, [&](std::size_t i) {
                found.push_back(i);
                return least;
            });
            for (std::size_t i = 0; i < count; ++i)
                if (logits[i] >= least) expected.push_back(i);
            CHECK(found == expected);
        }

        // The library's exponential and xsimd's are both within an ulp or two.
        for (const double temperature : {1.0, 0.25, 30.0}) {
            std::vector<double> weights(count, -1.0);
            const double sum = sum_of_exponentials(std::span(logits), largest, temperature, weights.data());
            double expected_sum = 0;
            for (std::size_t i = 0; i < count; ++i) {
                const double expected =
                    std::exp((static_cast<double>(logits[i]) - static_cast<double>(largest)) / temperature);
                expected_sum += expected;
                CHECK(std::abs(weights[i] - expected) <= 1e-14 * expected);
            }
            CHECK(sum == doctest::Approx(expected_sum).epsilon(1e-14));
            CHECK(sum_of_exponentials(std::span(logits), largest, temperature) == sum);
        }
    }
}

TEST_CASE("the largest weight is 1, whatever the temperature, and where all are equal so are all weights") {
    for (const double temperature : {1e-45, 1.0, 3e38}) {
        std::vector<double> weights(19);
        const std::vector<float> logits(19, -7.5f);
        CHECK(sum_of_exponentials(std::span(logits), -7.5f, temperature, weights.data()) == 19);
        CHECK(weights == std::vector<double>(19, 1.0));
    }
}

TEST_CASE("what is asked for may rise on the way") {
    std::vector<float> logits(100);
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 50);
    std::vector<std::size_t> found;
    for_each_at_least(std::span<const float>(logits), 10.0f, [&](std::size_t i) {
        found.push_back(i);
        return logits[i] + 10;
    });
    CHECK(found == std::vector<std::size_t>{10, 20, 30, 40});
}

TEST_CASE_TEMPLATE("logits that make no distribution are found wherever they stand", A, float, double) {
    constexpr A infinity = std::numeric_limits<A>::infinity();
    const auto error = [](const std::vector<A>& logits) {
        return message_of([&] { largest_logit(std::span(logits), "they"); });
    };
    CHECK(error({}) == "they: all are -infinity, expected one that is not");
    for (std::size_t count = 1; count < 40; ++count) {
        CHECK(error(std::vector<A>(count, -infinity)) == "they: all are -infinity, expected one that is not");
        for (std::size_t i = 0; i < count; ++i)
            for (const A bad : {std::numeric_limits<A>::quiet_NaN(), infinity}) {
                std::vector<A> logits(count, A(2));
                logits[i] = bad;
                CHECK(error(logits) == concat("they: token ", i, " has ", bad == infinity ? "inf" : "nan",
                                              ", expected a number or -infinity"));
            }
    }
}

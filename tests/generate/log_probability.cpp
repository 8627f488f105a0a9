#include <mistral/generate/log_probability.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include <mistral/generate/random.hpp>

#include "tiny_model.hpp"

using namespace mistral;

namespace {

double log_sum_exp_of(const std::vector<float>& logits) {
    return log_sum_exp(std::span(logits));
}

}  // namespace

TEST_CASE("log-probabilities are exact for numbers that are known") {
    CHECK(log_sum_exp_of({0, 0, 0, 0}) == doctest::Approx(std::log(4.0)).epsilon(1e-15));
    CHECK(log_sum_exp_of({5}) == 5);
    CHECK(log_sum_exp_of({-tiny::infinity, 3, -tiny::infinity}) == 3);
    CHECK(log_sum_exp_of({std::log(1.0f), std::log(3.0f)}) == doctest::Approx(std::log(4.0)).epsilon(1e-7));
    const std::vector<float> logits{std::log(1.0f), -tiny::infinity, std::log(3.0f)};
    CHECK(log_probability(std::span<const float>(logits), 2) == doctest::Approx(std::log(0.75)).epsilon(1e-7));
    CHECK(log_probability(std::span<const float>(logits), 1) == -static_cast<double>(tiny::infinity));
}

TEST_CASE("the largest logits there are overflow nothing") {
    constexpr float largest = std::numeric_limits<float>::max();
    CHECK(log_sum_exp_of({largest, -largest}) == static_cast<double>(largest));
    CHECK(log_sum_exp_of({-largest, -largest}) == doctest::Approx(-static_cast<double>(largest)).epsilon(1e-15));
}

TEST_CASE("logits that make no distribution are refused with the token that has them") {
    CHECK(message_of([] {
              log_sum_exp_of({1, 2, tiny::nan});
          }) == "the model's logits: token 2 has nan, expected a number or -infinity");
    CHECK(message_of([] {
              log_sum_exp_of({1, tiny::infinity, 3});
          }) == "the model's logits: token 1 has inf, expected a number or -infinity");
    CHECK(message_of([] {
              log_sum_exp_of({-tiny::infinity, -tiny::infinity});
          }) == "the model's logits: all are -infinity, expected one that is not");
    CHECK_THROWS_AS(log_sum_exp_of({}), Error);
}

TEST_CASE("the most likely tokens are those that sorting finds, equal ones by their ids") {
    Random random(5);
    for (int round = 0; round < 50; ++round) {
        std::vector<float> logits;
        for (int i = 0; i < 100; ++i) logits.push_back(std::floor(20 * static_cast<float>(random.uniform())));
        std::vector<TokenLogprob> expected;
        for (Token token = 0; token < 100; ++token)
            expected.push_back({token, static_cast<double>(logits[static_cast<std::size_t>(token)]) - 7.0});
        std::stable_sort(expected.begin(), expected.end(), [](auto a, auto b) { return a.logprob > b.logprob; });
        for (const Index count : {0, 1, 2, 7, 50, 100, 1000}) {
            std::vector<TokenLogprob> found;
            most_likely(std::span<const float>(logits), 7.0, count, found);
            const auto most = std::min<std::size_t>(static_cast<std::size_t>(count), 100);
            REQUIRE(found.size() == most);
            CHECK(std::equal(found.begin(), found.end(), expected.begin()));
        }
    }
}

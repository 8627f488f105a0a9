#pragma once

#include <mistral/cuda.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "model/golden_models.hpp"

/// What the tests of models on the GPU share.
namespace model_logits {

using mistral::Index;
using mistral::Token;

/// Logits [tokens, vocab_size] of `tokens`, so many at a time.
template <class C, class Model>
std::vector<float> logits_of(const Model& model, std::span<const Token> tokens, Index chunk) {
    return goldens::logits_of<Model, C>(model, tokens, std::span<const Index>(&chunk, 1));
}

inline double largest_difference(const std::vector<float>& found, const std::vector<double>& expected) {
    REQUIRE(found.size() == expected.size());
    double largest = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double difference = std::abs(static_cast<double>(found[i]) - expected[i]);
        largest = difference <= largest ? largest : difference;  // a NaN is the largest
    }
    return largest;
}

inline std::vector<Token> some_tokens(Index count, Index vocab) {
    plain::Random random(9);
    return random.tokens(count, vocab);
}

}  // namespace model_logits

#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/host_matrix.hpp>
#include <mistral/device/cpu/cpu.hpp>
#include <mistral/generate/random.hpp>
#include <mistral/generate/session.hpp>
#include <mistral/model/mistral_model.hpp>
#include <mistral/model/weights.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "message_of.hpp"

/// Models of a few thousand random weights, made in memory.
namespace tiny {

using mistral::Index;
using mistral::Token;

inline constexpr float nan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float infinity = std::numeric_limits<float>::infinity();

inline mistral::Config config(std::vector<Index> windows) {
    mistral::Config config;
    config.layers = 2;
    config.hidden_size = 16;
    config.intermediate_size = 24;
    config.query_heads = 4;
    config.kv_heads = 2;
    config.head_dim = 6;
    config.vocab_size = 40;
    config.max_positions = 64;
    config.rope_theta = 1e4;
    config.norm_eps = 1e-5;
    config.windows = std::move(windows);
    return config;
}

template <class T>
mistral::HostMatrix<T> matrix(mistral::Random& random, Index rows, Index cols, double scale, double shift = 0) {
    auto owner = std::make_shared<std::vector<T>>();
    for (Index i = 0; i < rows * cols; ++i)
        owner->push_back(static_cast<T>(static_cast<float>(shift + scale * (2 * random.uniform() - 1))));
    const mistral::MatrixView<const T> view(owner->data(), rows, cols);
    return {view, std::move(owner)};
}

template <mistral::Scalar S, class D = mistral::Cpu>
mistral::MistralModel<S, D> model(const mistral::Config& config, const D& device, std::uint64_t seed = 1) {
    using A = mistral::Activation<S>;
    mistral::Random random(seed);
    const auto map = [&](Index outputs, Index inputs) {
        return matrix<S>(random, outputs, inputs, 3 / std::sqrt(static_cast<double>(inputs)));
    };
    const auto norm = [&] { return matrix<A>(random, 1, config.hidden_size, 0.2, 1); };
    const Index queries = config.query_heads * config.head_dim;
    const Index keys = config.kv_heads * config.head_dim;
    const Index hidden = config.hidden_size;
    mistral::ModelWeights<S, D> weights;
    weights.embedding = matrix<S>(random, config.vocab_size, hidden, 1);
    weights.norm = norm();
    weights.output = map(config.vocab_size, hidden);
    for (Index layer = 0; layer < config.layers; ++layer)
        weights.blocks.push_back({.attention_norm = norm(),
                                  .attention = {.query = map(queries, hidden),
                                                .key = map(keys, hidden),
                                                .value = map(keys, hidden),
                                                .output = map(hidden, queries)},
                                  .feed_forward_norm = norm(),
                                  .feed_forward = {.gate = map(config.intermediate_size, hidden),
                                                   .up = map(config.intermediate_size, hidden),
                                                   .down = map(hidden, config.intermediate_size)}});
    return {device, config, std::move(weights)};
}

/// A float model on one thread whose layers have these windows.
inline mistral::MistralModel<float> model(std::vector<Index> windows = {6}) {
    return model<float>(config(std::move(windows)), mistral::Cpu(1));
}

/// Tokens without the one that ends a text.
inline std::vector<Token> tokens(Index count, std::uint64_t seed = 7) {
    mistral::Random random(seed);
    std::vector<Token> tokens;
    for (Index i = 0; i < count; ++i) tokens.push_back(3 + static_cast<Token>(37 * random.uniform()));
    return tokens;
}

/// Windows of layers that roll, that do not, and both in one model.
inline const std::vector<std::vector<Index>> all_windows{
    {1}, {4}, {5, 8}, {6, mistral::no_window}, {mistral::no_window}};

inline std::span<const Token> part(const std::vector<Token>& tokens, Index first, Index count) {
    return std::span(tokens).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
}

/// All tokens of a range.
template <class Range>
std::vector<Token> collect(Range&& range) {
    std::vector<Token> tokens;
    for (const Token token : range) tokens.push_back(token);
    return tokens;
}

/// The logits that follow, as they are now.
template <class Session>
std::vector<typename Session::A> logits(Session& session) {
    const auto logits = session.logits();
    return {logits.begin(), logits.end()};
}

}  // namespace tiny

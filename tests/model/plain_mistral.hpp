#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/host_matrix.hpp>
#include <mistral/device/cpu/cpu.hpp>
#include <mistral/model/mistral_model.hpp>
#include <mistral/model/weights.hpp>

#include <cmath>
#include <cstddef>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "kernels.hpp"

/// Mistral written out as in the paper: no cache, no chunks, no threads, a mask over absolute positions, loops in
/// double precision. It shares no arithmetic with the library.
namespace plain {

using mistral::Index;
using mistral::Token;

/// A matrix [rows, cols].
struct Matrix {
    Index rows = 0;
    Index cols = 0;
    std::vector<double> values = {};

    Matrix() = default;
    Matrix(Index r, Index c) : rows(r), cols(c), values(static_cast<std::size_t>(r * c)) {}

    double& operator()(Index i, Index j) { return values[static_cast<std::size_t>(i * cols + j)]; }
    double operator()(Index i, Index j) const { return values[static_cast<std::size_t>(i * cols + j)]; }

    /// The same numbers for the library, which must hold in T without rounding to make comparisons exact.
    template <class T>
    [[nodiscard]] mistral::HostMatrix<T> host() const {
        auto owner = std::make_shared<std::vector<T>>();
        for (const double value : values) owner->push_back(static_cast<T>(static_cast<float>(value)));
        const mistral::MatrixView<const T> view(owner->data(), rows, cols);
        return {view, owner};
    }
    template <class T>
    requires std::same_as<T, double>
    [[nodiscard]] mistral::HostMatrix<double> host() const {
        const auto owner = std::make_shared<std::vector<double>>(values);
        return {mistral::MatrixView<const double>(owner->data(), rows, cols), owner};
    }
};

/// Normally distributed values that bfloat16 and half hold exactly: seven bits, no smaller than 2^-14.
class Random {
  public:
    explicit Random(unsigned seed) : engine_(seed) {}

    Matrix matrix(Index rows, Index cols, double scale, double shift = 0) {
        Matrix result(rows, cols);
        for (double& value : result.values) value = rounded(shift + scale * normal_(engine_));
        return result;
    }

    /// A number in first … last.
    Index number(Index first, Index last) { return std::uniform_int_distribution<Index>(first, last)(engine_); }

    template <class T>
    T choice(std::initializer_list<T> options) {
        return options.begin()[number(0, static_cast<Index>(options.size()) - 1)];
    }

    std::vector<Token> tokens(Index count, Index vocab) {
        std::vector<Token> result;
        for (Index i = 0; i < count; ++i) result.push_back(static_cast<Token>(number(0, vocab - 1)));
        return result;
    }

  private:
    static double rounded(double value) {
        int exponent = 0;
        const double fraction = std::frexp(value, &exponent);
        exponent = std::max(exponent, -6);
        return std::ldexp(std::round(std::ldexp(fraction, 7)), exponent - 7);
    }

    std::mt19937 engine_;
    std::normal_distribution<double> normal_;
};

inline Matrix rms_norm(const Matrix& x, const Matrix& weight, double eps) {
    Matrix out(x.rows, x.cols);
    for (Index t = 0; t < x.rows; ++t) {
        double squares = 0;
        for (Index i = 0; i < x.cols; ++i) squares += x(t, i) * x(t, i);
        for (Index i = 0; i < x.cols; ++i)
            out(t, i) = x(t, i) / std::sqrt(squares / static_cast<double>(x.cols) + eps) * weight(0, i);
    }
    return out;
}

/// x Wᵀ
inline Matrix multiply(const Matrix& x, const Matrix& weights) {
    Matrix out(x.rows, weights.rows);
    for (Index t = 0; t < x.rows; ++t)
        for (Index r = 0; r < weights.rows; ++r)
            for (Index i = 0; i < x.cols; ++i) out(t, r) += x(t, i) * weights(r, i);
    return out;
}

/// Row t of x [tokens, heads * head_dim] stands at position `first` + t. Angles are products of float32 numbers.
inline Matrix rotate(const Matrix& x, Index head_dim, double theta, mistral::RotaryPairing pairing, Index first = 0) {
    Matrix out(x.rows, x.cols);
    const bool adjacent = pairing == mistral::RotaryPairing::adjacent;
    for (Index t = 0; t < x.rows; ++t)
        for (Index start = 0; start < x.cols; start += head_dim)
            for (Index i = 0; i < head_dim / 2; ++i) {
                const auto exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
                const float frequency = 1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
                const double angle = static_cast<float>(first + t) * frequency;
                const Index a = start + (adjacent ? 2 * i : i);
                const Index b = start + (adjacent ? 2 * i + 1 : i + head_dim / 2);
                out(t, a) = x(t, a) * std::cos(angle) - x(t, b) * std::sin(angle);
                out(t, b) = x(t, a) * std::sin(angle) + x(t, b) * std::cos(angle);
            }
    return out;
}

/// Attention of all rows to all earlier ones less than `window` away, in one pass over a matrix of scores.
inline Matrix attend(const Matrix& queries, const Matrix& keys, const Matrix& values, const mistral::Shape& shape) {
    Matrix out(queries.rows, queries.cols);
    const Index d = shape.head_dim;
    for (Index head = 0; head < shape.query_heads; ++head) {
        const Index q0 = head * d;
        const Index k0 = head / (shape.query_heads / shape.kv_heads) * d;
        for (Index i = 0; i < queries.rows; ++i) {
            std::vector<double> weights(static_cast<std::size_t>(keys.rows), 0.0);
            double total = 0;
            for (Index j = 0; j <= i; ++j) {
                if (i - j >= shape.window) continue;
                double score = 0;
                for (Index e = 0; e < d; ++e) score += queries(i, q0 + e) * keys(j, k0 + e);
                total += weights[static_cast<std::size_t>(j)] = std::exp(score / std::sqrt(static_cast<double>(d)));
            }
            for (Index j = 0; j <= i; ++j)
                for (Index e = 0; e < d; ++e)
                    out(i, q0 + e) += weights[static_cast<std::size_t>(j)] / total * values(j, k0 + e);
        }
    }
    return out;
}

/// The numbers rounded to what a cache of C holds.
template <class C>
Matrix rounded_to(Matrix x) {
    for (double& value : x.values) value = static_cast<double>(static_cast<C>(static_cast<float>(value)));
    return x;
}
template <>
inline Matrix rounded_to<double>(Matrix x) {
    return x;
}

inline Matrix sum(Matrix a, const Matrix& b) {
    for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] += b.values[i];
    return a;
}

inline Matrix swiglu(const Matrix& gate, const Matrix& up) {
    Matrix out(gate.rows, gate.cols);
    for (std::size_t i = 0; i < out.values.size(); ++i)
        out.values[i] = gate.values[i] / (1 + std::exp(-gate.values[i])) * up.values[i];
    return out;
}

struct Block {
    Matrix attention_norm, query, key, value, output, feed_forward_norm, gate, up, down;
};

struct Mistral {
    mistral::Config config;
    Matrix embedding, norm, output;
    std::vector<Block> blocks = {};

    /// Random weights that make attention far from uniform.
    Mistral(mistral::Config given, unsigned seed) : config(std::move(given)) {
        Random random(seed);
        const auto map = [&](Index outputs, Index inputs) {
            return random.matrix(outputs, inputs, 1.3 / std::sqrt(static_cast<double>(inputs)));
        };
        const Index hidden = config.hidden_size;
        embedding = random.matrix(config.vocab_size, hidden, 0.5);
        norm = random.matrix(1, hidden, 0.2, 1);
        output = map(config.vocab_size, hidden);
        for (Index layer = 0; layer < config.layers; ++layer)
            blocks.push_back({.attention_norm = random.matrix(1, hidden, 0.2, 1),
                              .query = map(config.query_heads * config.head_dim, hidden),
                              .key = map(config.kv_heads * config.head_dim, hidden),
                              .value = map(config.kv_heads * config.head_dim, hidden),
                              .output = map(hidden, config.query_heads * config.head_dim),
                              .feed_forward_norm = random.matrix(1, hidden, 0.2, 1),
                              .gate = map(config.intermediate_size, hidden),
                              .up = map(config.intermediate_size, hidden),
                              .down = map(hidden, config.intermediate_size)});
    }

    /// Logits [tokens, vocab_size].
    [[nodiscard]] Matrix logits(std::span<const Token> tokens) const {
        Matrix x(static_cast<Index>(tokens.size()), config.hidden_size);
        for (Index t = 0; t < x.rows; ++t)
            for (Index i = 0; i < x.cols; ++i) x(t, i) = embedding(tokens[static_cast<std::size_t>(t)], i);
        for (Index layer = 0; layer < config.layers; ++layer) {
            const Block& block = blocks[static_cast<std::size_t>(layer)];
            const auto rotated = [&](const Matrix& m) {
                return rotate(m, config.head_dim, config.rope_theta, config.rotary_pairing);
            };
            const Matrix a = rms_norm(x, block.attention_norm, config.norm_eps);
            const Matrix mixed = attend(rotated(multiply(a, block.query)), rotated(multiply(a, block.key)),
                                        multiply(a, block.value), config.shape(layer));
            x = sum(x, multiply(mixed, block.output));
            const Matrix b = rms_norm(x, block.feed_forward_norm, config.norm_eps);
            x = sum(x, multiply(swiglu(multiply(b, block.gate), multiply(b, block.up)), block.down));
        }
        return multiply(rms_norm(x, norm, config.norm_eps), output);
    }

    /// The same numbers as a model of the library.
    template <mistral::Scalar S, class D>
    [[nodiscard]] mistral::MistralModel<S, D> model(const D& device) const {
        const auto map = [&](const Matrix& matrix) { return device.matrix(matrix.host<S>()); };
        const auto norm_of = [&](const Matrix& matrix) { return device.matrix(matrix.host<mistral::Activation<S>>()); };
        mistral::ModelWeights<S, D> weights;
        weights.embedding = map(embedding);
        weights.norm = norm_of(norm);
        weights.output = map(output);
        for (const Block& block : blocks)
            weights.blocks.push_back(
                {.attention_norm = norm_of(block.attention_norm),
                 .attention = {map(block.query), map(block.key), map(block.value), map(block.output)},
                 .feed_forward_norm = norm_of(block.feed_forward_norm),
                 .feed_forward = {map(block.gate), map(block.up), map(block.down)}});
        return {device, config, std::move(weights)};
    }
};

/// A small configuration of random geometry.
inline mistral::Config random_config(Random& random) {
    mistral::Config config;
    config.layers = random.number(1, 3);
    config.hidden_size = random.number(3, 40);
    config.intermediate_size = random.number(1, 50);
    config.kv_heads = random.choice<Index>({1, 1, 2, 3});
    config.query_heads = config.kv_heads * random.choice<Index>({1, 2, 3, 4, 5});
    config.head_dim = random.choice<Index>({2, 6, 8, 16, 34});
    config.vocab_size = random.number(2, 60);
    config.max_positions = 512;
    config.rope_theta = random.choice({1e4, 1e6});
    config.norm_eps = random.choice({1e-5, 1e-6});
    config.rotary_pairing = random.choice({mistral::RotaryPairing::halves, mistral::RotaryPairing::adjacent});
    config.windows = {random.choice<Index>({1, 2, 3, 4, 5, 7, 11, 16, mistral::no_window})};
    if (random.number(0, 2) == 0) config.windows.push_back(random.choice<Index>({1, 5, mistral::no_window}));
    return config;
}

}  // namespace plain

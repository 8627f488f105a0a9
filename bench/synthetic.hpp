#pragma once

#include <mistral/base/aligned_buffer.hpp>
#include <mistral/base/config.hpp>
#include <mistral/base/host_matrix.hpp>
#include <mistral/device/cpu/cpu.hpp>
#include <mistral/model/rolling_kv_cache.hpp>
#include <mistral/model/sequence_state.hpp>
#include <mistral/model/weights.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

/// Made-up weights and caches of Mistral 7B's shape, all in memory of their own, so that caches of the processor help
/// no more than with real ones. Contents are stretches of random blocks: speed does not depend on them.
namespace bench {

using mistral::AlignedBuffer;
using mistral::bfloat16;
using mistral::Config;
using mistral::Cpu;
using mistral::Index;
using mistral::MatrixView;
using mistral::Token;

/// Mistral 7B v0.1, with another depth or window.
[[nodiscard]] inline Config mistral_7b(Index layers = 32, Index window = 4096) {
    Config config;
    config.layers = layers;
    config.hidden_size = 4096;
    config.intermediate_size = 14336;
    config.query_heads = 32;
    config.kv_heads = 8;
    config.head_dim = 128;
    config.vocab_size = 32000;
    config.max_positions = 32768;
    config.rope_theta = 1e4;
    config.norm_eps = 1e-5;
    config.windows = {window};
    return config;
}

/// Fills memory with normal numbers of deviation 0.02, as of trained weights. Calls go on where the last one stopped in
/// the block, so that neighbours differ.
template <class T>
void fill(T* to, Index count) {
    static const std::vector<T> block = [] {
        constexpr std::size_t size = (1 << 20) + 7;  // odd: rows of weights differ
        std::mt19937 random(1);
        std::normal_distribution<float> normal(0, 0.02f);
        std::vector<T> numbers(size);
        for (T& number : numbers) number = static_cast<T>(normal(random));
        return numbers;
    }();
    static std::size_t next = 0;
    while (count > 0) {
        const std::size_t piece = std::min(static_cast<std::size_t>(count), block.size() - next);
        std::copy_n(block.data() + next, piece, to);
        to += piece;
        count -= static_cast<Index>(piece);
        next = (next + piece) % block.size();
    }
}

template <class T>
struct MatrixMaker {
    static mistral::HostMatrix<T> make(Index rows, Index cols) {
        const auto memory = std::make_shared<AlignedBuffer<T>>(rows * cols, mistral::Pages::huge);
        fill(memory->data(), memory->size());
        return {{memory->data(), rows, cols}, memory};
    }
};

/// Quantised weights whose codes are random. To quantise numbers would take minutes for a whole model: it searches for
/// scales.
template <mistral::QuantizedScalar Q>
struct MatrixMaker<Q> {
    using Matrix = mistral::PackedMatrix<Q>;

    static Matrix make(Index rows, Index cols) {
        static const Matrix pattern = [] {
            constexpr Index columns = 64 * mistral::group_size;
            return Cpu(1).quantize<Q>(Matrix::panel_rows, columns, [](Index, float* row) { fill(row, columns); });
        }();
        const Index bytes = Matrix::bytes_of(rows, cols);
        const auto memory = std::make_shared<AlignedBuffer<std::byte>>(bytes, mistral::Pages::huge);
        for (Index done = 0; done < bytes; done += pattern.panel_bytes())
            std::memcpy(memory->data() + done, pattern.panel(0),
                        static_cast<std::size_t>(std::min(bytes - done, pattern.panel_bytes())));
        return Matrix(memory, memory->data(), rows, cols);
    }
};

/// Weights [rows, cols] in memory of their own.
template <class T>
[[nodiscard]] Cpu::Matrix<T> synthetic_matrix(Index rows, Index cols) {
    return MatrixMaker<T>::make(rows, cols);
}

/// A model's weights, each matrix by make.operator()<T>(rows, cols).
template <mistral::Scalar S, class D, class Make>
[[nodiscard]] mistral::ModelWeights<S, D> make_weights(const Config& config, const Make& make) {
    using A = mistral::Activation<S>;
    const Index hidden = config.hidden_size, intermediate = config.intermediate_size;
    const Index query = config.query_heads * config.head_dim;
    const Index key = config.kv_heads * config.head_dim;
    const auto norm = [&] { return make.template operator()<A>(1, hidden); };
    const auto map = [&](Index rows, Index cols) { return make.template operator()<S>(rows, cols); };
    mistral::ModelWeights<S, D> weights;
    weights.embedding = make.template operator()<mistral::EmbeddingScalar<S>>(config.vocab_size, hidden);
    for (Index layer = 0; layer < config.layers; ++layer)
        weights.blocks.push_back({.attention_norm = norm(),
                                  .attention = {.query = map(query, hidden),
                                                .key = map(key, hidden),
                                                .value = map(key, hidden),
                                                .output = map(hidden, query)},
                                  .feed_forward_norm = norm(),
                                  .feed_forward = {.gate = map(intermediate, hidden),
                                                   .up = map(intermediate, hidden),
                                                   .down = map(hidden, intermediate)}});
    weights.norm = norm();
    weights.output = map(config.vocab_size, hidden);
    return weights;
}

template <mistral::Scalar S>
[[nodiscard]] mistral::ModelWeights<S, Cpu> synthetic_weights(const Config& config) {
    return make_weights<S, Cpu>(config,
                                []<class T>(Index rows, Index cols) { return synthetic_matrix<T>(rows, cols); });
}

/// Text of so many tokens.
[[nodiscard]] inline std::vector<Token> synthetic_tokens(Index count) {
    std::vector<Token> tokens(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<Token>(i * 7919 % 32000);
    return tokens;
}

using Cache = mistral::RollingKVCache<bfloat16, Cpu>;
using State = mistral::SequenceState<bfloat16, Cpu>;

/// Writes every slot of a cache, so that it may be put at any position.
inline void fill(Cache& cache) {
    cache.reset(0, cache.capacity());
    cache.for_each_segment([](MatrixView<bfloat16> segment) { fill(segment.data(), segment.rows() * segment.cols()); });
}

/// Makes `position` the next one, as if all before it had been computed: a cache's size and its time depend on where it
/// is, not on how it came there.
template <class D>
void put_at(mistral::RollingKVCache<bfloat16, D>& cache, Index position) {
    cache.reset(std::max<Index>(0, position - cache.capacity()), position);
}
template <class D>
void put_at(mistral::SequenceState<bfloat16, D>& state, Index position) {
    for (Index layer = 0; layer < state.layers(); ++layer) put_at(state.cache(layer), position);
}

/// A sequence whose caches are full, of as many positions as the context where the config has no window.
[[nodiscard]] inline State full_state(const Cpu& device, const Config& config, Index context = mistral::no_window) {
    State state(device, config, {.context = context});
    for (Index layer = 0; layer < state.layers(); ++layer) fill(state.cache(layer));
    return state;
}

}  // namespace bench

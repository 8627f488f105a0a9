// One attention layer inside a program of one's own: a sliding window of 256 positions, 8 query heads that share 2
// key/value heads, all fixed at compile time. It reads a stream that never ends, and its memory stops growing.
//
//   custom_attention

#include <mistral/device/cpu/cpu.hpp>
#include <mistral/model/grouped_query_attention.hpp>
#include <mistral/model/rolling_kv_cache.hpp>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <memory>
#include <random>
#include <vector>

namespace {

using namespace mistral;

constexpr Shape shape{.window = 256, .query_heads = 8, .kv_heads = 2, .head_dim = 64};
constexpr Index hidden_size = 512;

std::vector<float> random_numbers(Index count, double deviation, std::mt19937& engine) {
    std::normal_distribution<double> distribution(0, deviation);
    std::vector<float> numbers(static_cast<std::size_t>(count));
    std::ranges::generate(numbers, [&] { return static_cast<float>(distribution(engine)); });
    return numbers;
}

// A linear map [outputs, inputs]. A HostMatrix is a view and whatever keeps its memory alive: here a vector of ours,
// elsewhere a mapped file or the weights of another library.
HostMatrix<float> random_map(Index outputs, Index inputs, std::mt19937& engine) {
    const double deviation = 1 / std::sqrt(static_cast<double>(inputs));
    const auto memory = std::make_shared<std::vector<float>>(random_numbers(outputs * inputs, deviation, engine));
    return {{memory->data(), outputs, inputs}, memory};
}

GroupedQueryAttention<float, Cpu, shape> make_attention(const Cpu& device, std::mt19937& engine) {
    const Index query_size = shape.query_heads * shape.head_dim;
    const Index key_size = shape.kv_heads * shape.head_dim;
    AttentionWeights<float, Cpu> weights{.query = random_map(query_size, hidden_size, engine),
                                         .key = random_map(key_size, hidden_size, engine),
                                         .value = random_map(key_size, hidden_size, engine),
                                         .output = random_map(hidden_size, query_size, engine)};
    return {device, std::move(weights),
            RotaryEmbedding<float, Cpu>(device, shape.head_dim, 1e4, RotaryPairing::halves)};
}

}  // namespace

int main() {
    const Cpu device(2);  // two threads, shared by all that is made with a copy of it
    std::mt19937 engine(1);
    const auto attention = make_attention(device, engine);

    // Two caches for the same stream: one rolls over the window, the other keeps every position there will be.
    constexpr Index chunks[] = {100, 156, 700, 1, 1, 42, 1000};
    RollingKVCache<bfloat16, Cpu, shape> rolling(device);
    RollingKVCache<bfloat16, Cpu, shape> full(device, {}, {.rewind = 2000 - shape.window});
    Cpu::Workspace workspace;  // scratch memory: one per thread that calls

    std::cout << "chunk   seen   rolling cache holds    its memory   a full one's   greatest difference\n";
    for (const Index tokens : chunks) {
        auto x = random_numbers(tokens * hidden_size, 1, engine);
        std::vector<float> out(x.size()), out_of_full(x.size());
        const MatrixView<const float> input(x.data(), tokens, hidden_size);
        attention.forward(input, rolling, MatrixView<float>(out.data(), tokens, hidden_size), workspace);
        attention.forward(input, full, MatrixView<float>(out_of_full.data(), tokens, hidden_size), workspace);

        float difference = 0;
        for (std::size_t i = 0; i < out.size(); ++i)
            difference = std::max(difference, std::abs(out[i] - out_of_full[i]));
        std::cout << std::setw(5) << tokens << std::setw(7) << rolling.next_position() << std::setw(13)
                  << rolling.first_resident() << " to " << std::setw(5) << rolling.next_position() - 1 << std::setw(10)
                  << rolling.bytes() / 1024 << " KiB" << std::setw(11) << full.bytes() / 1024 << " KiB" << std::setw(22)
                  << difference << '\n';
        if (difference != 0) return 1;
    }
}

// Needs of the library what only a program that computes does: its dependencies' code, and threads.

#include <mistral/mistral.hpp>

#include <algorithm>
#include <iostream>
#include <vector>

int main() {
    using namespace mistral;
    constexpr Index tokens = 9, hidden = 8;
    const Shape shape{.window = 3, .query_heads = 2, .kv_heads = 1, .head_dim = 4};
    const Cpu device(2);

    // All values are alike, so that their mean under any attention is each of them: 8 inputs * 1 * 0.5 = 4.
    const std::vector<float> memory(hidden * hidden, 0.5f);
    const auto weights = [&](Index outputs) { return HostMatrix<float>{{memory.data(), outputs, hidden}, nullptr}; };
    const GroupedQueryAttention<float, Cpu> attention(
        device, {.query = weights(8), .key = weights(4), .value = weights(4), .output = weights(hidden)},
        RotaryEmbedding<float, Cpu>(device, shape.head_dim, 1e4, RotaryPairing::halves), shape);
    RollingKVCache<float, Cpu> cache(device, shape);
    Cpu::Workspace workspace;
    const std::vector<float> x(tokens * hidden, 1.0f);
    std::vector<float> y(x.size());
    attention.forward({x.data(), tokens, hidden}, cache, {y.data(), tokens, hidden}, workspace);

    std::cout << "mistral " << MISTRAL_VERSION << ": " << y.front() << '\n';
    // 8 of those * 0.5 = 16, but for the rounding of the softmax.
    return std::ranges::all_of(y, [](float value) { return value > 15.999f && value < 16.001f; }) ? 0 : 1;
}

// Prints checksums of what the verbs of `Cpu` compute, always from the same numbers.
//
//   verbs [INSTRUCTION_SET]      the argument only where instructions are chosen at run time

#include <mistral/base/checksum.hpp>
#include <mistral/device/cpu/cpu.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iostream>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#if defined(MISTRAL_DISPATCH)
#include "instruction_set_named.hpp"
#endif

namespace {

using namespace mistral;

/// The same numbers everywhere: between -1 and 1, in steps of 2^-23.
template <class T>
std::vector<T> numbers(Index count, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<T> values;
    for (Index i = 0; i < count; ++i)
        values.push_back(static_cast<T>(static_cast<float>(static_cast<std::int32_t>(random()) >> 8) * 0x1p-23f));
    return values;
}

template <class T>
void print(std::string_view verb, std::span<const T> values) {
    Checksum checksum;
    checksum.add(std::as_bytes(values));
    std::cout << verb << ' ' << std::hex << checksum.value() << std::dec << '\n';
}

class Verbs {
  public:
    explicit Verbs(const Cpu& device) : device_(device) {}

    void elementwise() {
        constexpr Index tokens = 9, width = 150;
        const auto x = numbers<float>(tokens * width, 1);
        const auto weight = numbers<float>(width, 2);
        std::vector<float> out(x.size());
        device_.rms_norm<float>({x.data(), tokens, width}, {{weight.data(), 1, width}, nullptr}, 1e-5,
                                {out.data(), tokens, width}, workspace_);
        print<float>("rms_norm", out);
        device_.swiglu<float>({x.data(), tokens, width}, {out.data(), tokens, width}, {out.data(), tokens, width},
                              workspace_);
        print<float>("swiglu", out);
        const auto frequencies = numbers<float>(25, 3);
        constexpr std::array runs{TokenRun{.position = 1000, .tokens = tokens}};
        device_.rotate<float>({out.data(), tokens, width}, runs, {{frequencies.data(), 1, 25}, nullptr},
                              RotaryPairing::halves, workspace_);
        print<float>("rotate", out);
    }

    /// Chunks of `tokens` tokens, whose inputs are no whole number of vectors.
    template <class S>
    void multiply(std::string_view verb, const Cpu::Matrix<S>& weights, Index tokens) {
        const auto x = numbers<float>(tokens * inputs, 4);
        auto out = numbers<float>(tokens * outputs, 5);
        device_.multiply(MatrixView<const float>(x.data(), tokens, inputs),
                         std::array{Product{weights, MatrixView<float>(out.data(), tokens, outputs)}}, Update::add,
                         workspace_);
        print<float>(verb, out);
    }

    void multiply() {
        const auto floats = numbers<float>(inputs * outputs, 6);
        const auto bfloats = numbers<bfloat16>(inputs * outputs, 7);
        const auto quantized = device_.quantize<Q4>(
            outputs, inputs, [&](Index row, float* to) { std::copy_n(floats.begin() + row * inputs, inputs, to); });
        print("quantize q4", quantized.bytes());
        for (const Index tokens : {1, 7, 40}) {
            multiply<bfloat16>("multiply bfloat16", {{bfloats.data(), outputs, inputs}, nullptr}, tokens);
            multiply<Q4>("multiply q4", quantized, tokens);
        }
    }

    void attend() {
        constexpr Index tokens = 70;
        constexpr Shape shape{.window = 50, .query_heads = 6, .kv_heads = 2, .head_dim = 40};
        constexpr Index kv_width = shape.kv_heads * shape.head_dim;
        const auto queries = numbers<float>(tokens * shape.query_heads * shape.head_dim, 8);
        const auto wide = numbers<float>(2 * tokens * kv_width, 9);
        std::vector<bfloat16> cache(wide.size());
        constexpr Index size = tokens * kv_width;
        device_.template convert<bfloat16>({wide.data(), tokens, kv_width}, {wide.data() + size, tokens, kv_width},
                                           shape.head_dim, {cache.data(), tokens, kv_width},
                                           {cache.data() + size, tokens, kv_width}, workspace_);
        print<bfloat16>("convert", cache);
        // Nothing is in the cache: all keys are those of the chunk.
        const std::array runs{CachedRun<bfloat16>{
            .tokens = tokens,
            .store = {.kv_heads = shape.kv_heads, .capacity = shape.window, .row_size = shape.head_dim}}};
        std::vector<float> out(queries.size());
        const Index width = shape.query_heads * shape.head_dim;
        device_.attend<bfloat16>({queries.data(), tokens, width}, {cache.data(), tokens, kv_width},
                                 {cache.data() + size, tokens, kv_width}, runs, shape, {out.data(), tokens, width},
                                 workspace_);
        print<float>("attend", out);
    }

  private:
    static constexpr Index inputs = 203, outputs = 45;

    Cpu device_;
    Cpu::Workspace workspace_;
};

}  // namespace

int main([[maybe_unused]] int argc, [[maybe_unused]] char** argv) {
#if defined(MISTRAL_DISPATCH)
    const auto set = argc > 1 ? instruction_set_named(argv[1]) : best_instruction_set();
    if (!is_supported(set)) {
        std::cerr << "skipped: this processor lacks " << name(set) << '\n';
        return 77;
    }
    const Cpu device({.threads = 2}, set);
#else
    const Cpu device({.threads = 2});
#endif
    Verbs verbs(device);
    verbs.elementwise();
    verbs.multiply();
    verbs.attend();
}

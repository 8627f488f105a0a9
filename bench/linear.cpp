// Linear maps of Mistral 7B's sizes by themselves, from one token to a chunk of a prompt.

#include "suite.hpp"
#include "synthetic.hpp"
#include "work.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace bench {
namespace {

using mistral::Scalar;

struct Map {
    std::string_view name;
    Index outputs;
    Index inputs;
};

constexpr Map gate{"gate", 14336, 4096};
constexpr Map maps[]{{"query", 4096, 4096}, {"key", 1024, 4096}, gate, {"down", 4096, 14336}, {"output", 32000, 4096}};
constexpr Index token_counts[]{1, 2, 4, 8, 16, 128, 512};

/// As many copies of the weights as no cache of the processor holds, used in turn.
template <class S>
std::vector<Cpu::Matrix<S>> copies(const Map& map) {
    constexpr double beyond_caches = 256e6;
    std::vector<Cpu::Matrix<S>> weights{synthetic_matrix<S>(map.outputs, map.inputs)};
    while (static_cast<double>(weights.size()) * bytes_of(weights.front()) < beyond_caches)
        weights.push_back(synthetic_matrix<S>(map.outputs, map.inputs));
    return weights;
}

template <Scalar S>
void run(benchmark::State& state, const Map& map, Index tokens, ActivationPrecision precision) {
    const Cpu device({.threads = machine().threads, .activation_precision = precision});
    const auto& weights =
        shared(std::string(mistral::ScalarTraits<S>::name).append(map.name), [&] { return copies<S>(map); });
    Cpu::Workspace workspace;
    auto frame = workspace.frame();
    const auto x = frame.matrix<float>(tokens, map.inputs);
    const auto out = frame.matrix<float>(tokens, map.outputs);
    fill(x.data(), tokens * map.inputs);
    std::size_t turn = 0;
    measure(state, linear_work<S>(weights.front(), tokens, precision), tokens, [&] {
        device.multiply(MatrixView<const float>(x), std::array{mistral::Product{weights[turn++ % weights.size()], out}},
                        mistral::Update::assign, workspace);
    });
}

template <Scalar S>
void add(const Map& map, Index tokens, ActivationPrecision precision, const char* suffix) {
    const auto name =
        mistral::concat("linear/", mistral::ScalarTraits<S>::name, '/', map.name, "/tokens:", tokens, suffix);
    add_row(name, [=](benchmark::State& state) { run<S>(state, map, tokens, precision); })->MinTime(0.2);
}

template <Scalar S>
void add(const Map& map) {
    for (const Index tokens : token_counts) {
        if constexpr (mistral::QuantizedScalar<S>) {
            if (tokens >= 8) add<S>(map, tokens, ActivationPrecision::fast, "/fast");  // before, memory bounds anyhow
            if (tokens > mistral::always_precise_tokens)
                add<S>(map, tokens, ActivationPrecision::balanced, "/balanced");
        }
        add<S>(map, tokens, ActivationPrecision::precise, "");
    }
}

}  // namespace

void add_linear_maps() {
    for (const Map& map : maps) {
        add<mistral::bfloat16>(map);
        add<mistral::Q8>(map);
        add<mistral::Q4>(map);
    }
    add<mistral::half>(gate);
    add<float>(gate);
}

}  // namespace bench

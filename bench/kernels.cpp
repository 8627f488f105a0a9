// The CPU's kernels by themselves: linear maps of Mistral 7B's sizes, and attention with and without its window.
//
//     bench_kernels [--benchmark_filter=attention]

#include <mistral/device/cpu/cpu.hpp>
#include <mistral/model/rolling_kv_cache.hpp>
#include <mistral/model/sliding_window_attention.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <vector>

namespace {

using namespace mistral;

/// x [tokens, 4096] times the gate's weights [14336, 4096]; counts operations and the bytes of the weights.
template <class S>
void linear(benchmark::State& state) {
    constexpr Index inputs = 4096;
    constexpr Index outputs = 14336;
    const Index tokens = state.range(0);
    const Cpu device;
    Cpu::Workspace workspace;
    const std::vector<S> memory(static_cast<std::size_t>(inputs * outputs), static_cast<S>(0.5f));
    const std::vector<float> x(static_cast<std::size_t>(tokens * inputs), 0.25f);
    std::vector<float> out(static_cast<std::size_t>(tokens * outputs));
    const HostMatrix<S> weights{{memory.data(), outputs, inputs}, nullptr};
    for (auto _ : state)
        device.multiply<S>({x.data(), tokens, inputs}, weights, {out.data(), tokens, outputs}, Update::assign,
                           workspace);
    using benchmark::Counter;
    state.counters["FLOP/s"] =
        Counter(2.0 * static_cast<double>(tokens * inputs * outputs), Counter::kIsIterationInvariantRate);
    state.SetBytesProcessed(state.iterations() * inputs * outputs * static_cast<Index>(sizeof(S)));
}
BENCHMARK_TEMPLATE(linear, bfloat16)->Arg(1)->Arg(8)->Arg(128)->Arg(512)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(linear, half)->Arg(1)->Arg(512)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(linear, float)->Arg(1)->Arg(512)->UseRealTime()->Unit(benchmark::kMillisecond);

/// A text of so many tokens in chunks of 512 through an eighth of a layer's heads. With the window of 4096, 16 384
/// tokens see 0.44 times the keys that they see without.
void attention(benchmark::State& state) {
    constexpr Index chunk = 512;
    const Index tokens = state.range(0);
    const Index window = state.range(1) > 0 ? state.range(1) : no_window;
    const Shape shape{.window = window, .query_heads = 4, .kv_heads = 1, .head_dim = 128};
    const Cpu device;
    const SlidingWindowAttention<bfloat16, Cpu> layer(device, shape);
    Cpu::Workspace workspace;
    const std::vector<float> queries(static_cast<std::size_t>(chunk * 4 * 128), 0.1f);
    const std::vector<float> keys(static_cast<std::size_t>(chunk * 128), 0.1f);
    std::vector<float> out(queries.size());
    for (auto _ : state) {
        RollingKVCache<bfloat16, Cpu> cache(device, shape,
                                            {.context = std::max(tokens, window == no_window ? 0 : window)});
        while (cache.next_position() < tokens)
            layer.forward({queries.data(), chunk, 512}, {keys.data(), chunk, 128}, {keys.data(), chunk, 128}, cache,
                          {out.data(), chunk, 512}, workspace);
    }
}
BENCHMARK(attention)
    ->ArgNames({"tokens", "window"})
    ->Args({16384, 4096})
    ->Args({16384, 0})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();

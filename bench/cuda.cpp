// Measures models of Mistral 7B's size on a GPU against the limits that it reaches in the same run:
//
//     mistral_bench_cuda [--gpu=N] [--benchmark_filter=REGEX] [--benchmark_out=OUTPUT.json]
//
// Every row tells in `of_limit` what part of such a limit it reaches, and in its label which: of steps of few tokens
// the bandwidth of a copy, which counts what it reads and what it writes, and of prompts cuBLASLt's product of large
// matrices. Times are those of whole passes, with tokens on their way in and logits on their way out.

#include "suite.hpp"
#include "synthetic.hpp"
#include "work.hpp"

#include <mistral/base/error.hpp>
#include <mistral/cuda.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <span>
#include <string>
#include <vector>

namespace bench {
namespace {

using mistral::concat;
using mistral::Cuda;
using mistral::Scalar;

constexpr Index window = 4096;

/// The GPU in this run, and per second what it does at most.
struct Gpu {
    Cuda device;
    double copied_bytes;  ///< read and written
    double operations;    ///< of products of bfloat16 matrices
};

Gpu probe_gpu(int ordinal) {
    Gpu gpu{Cuda(ordinal), 0, 0};
    const mistral::cuda::CurrentGpu current(ordinal);
    const mistral::cuda::Stream stream;
    {
        constexpr Index bytes = Index{1} << 30;
        auto from = gpu.device.buffer<std::byte>(bytes), to = gpu.device.buffer<std::byte>(bytes);
        const double seconds = fastest([&] {
            MISTRAL_CUDA(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream.get()));
            stream.synchronize();
        });
        gpu.copied_bytes = 2 * static_cast<double>(bytes) / seconds;
    }
    constexpr Index size = 8192;
    const auto x = gpu.device.matrix(synthetic_matrix<bfloat16>(size, size));
    auto out = gpu.device.buffer<float>(size * size);
    auto scratch = gpu.device.buffer<std::byte>(mistral::cuda::MatrixProduct::scratch_bytes);
    mistral::cuda::MatrixProduct product;
    const double seconds = fastest([&] {
        product.run(stream.get(), x.view(), x.view(), {out.data(), size, size}, mistral::Update::assign,
                    scratch.data());
        stream.synchronize();
    });
    gpu.operations = 2.0 * size * size * size / seconds;
    return gpu;
}

/// Weights [rows, cols] in the GPU's memory.
template <class T>
Cuda::Matrix<T> matrix_on(const Cuda& device, Index rows, Index cols) {
    if constexpr (mistral::QuantizedScalar<T>) {
        // Random codes, as constant ones would cost less power; the bytes of scales make them 0.05.
        std::vector<std::byte> bytes(static_cast<std::size_t>(Cuda::Matrix<T>::bytes_of(rows, cols)), std::byte{0x2a});
        const typename Cuda::Matrix<T>::View shape{.rows = rows, .cols = cols};
        fill(reinterpret_cast<bfloat16*>(bytes.data()), shape.code_bytes() / Index{sizeof(bfloat16)});
        return device.mapped<T>(nullptr, bytes.data(), rows, cols);
    } else {
        return device.matrix(synthetic_matrix<T>(rows, cols));
    }
}

/// A model and sequences on it that are put wherever a row wants them.
template <Scalar S>
class GpuSequences {
  public:
    GpuSequences(const Gpu& gpu, Index count)
        : model_(shared(concat("cuda/", mistral::ScalarTraits<S>::name), [&] {
              const Config config = mistral_7b(32, window);
              return Model(gpu.device, config, make_weights<S, Cuda>(config, [&]<class T>(Index rows, Index cols) {
                               return matrix_on<T>(gpu.device, rows, cols);
                           }));
          })) {
        for (Index i = 0; i < count; ++i) states_.emplace_back(gpu.device, model_.config());
    }

    /// So many tokens of each sequence from a position on, the last of which wants its logits.
    void forward(Index position, Index tokens) {
        const Index vocab = model_.config().vocab_size;
        const auto text = synthetic_tokens(tokens);
        logits_.resize(states_.size() * static_cast<std::size_t>(vocab));
        std::vector<Chunk> chunks;
        for (State& state : states_) {
            put_at(state, position);
            float* const row = logits_.data() + chunks.size() * static_cast<std::size_t>(vocab);
            chunks.push_back({.tokens = text, .state = &state, .logits = {row, 1, vocab}});
        }
        model_.forward(std::span<const Chunk>(chunks));
    }

    /// Of all but the last layer everything, of that the keys and values, and the rest for tokens that want logits.
    [[nodiscard]] Work work(Index position, Index tokens) const {
        const Config& c = model_.config();
        const Index query = c.query_heads * c.head_dim, key = c.kv_heads * c.head_dim;
        const auto count = static_cast<Index>(states_.size());
        Work total = product(c.vocab_size, c.hidden_size, count);
        for (Index layer = 0; layer < c.layers; ++layer) {
            const Index outputs = layer + 1 < c.layers ? tokens : 1;
            total = total + 2 * product(key, c.hidden_size, count * tokens) +
                    2 * product(query, c.hidden_size, count * outputs) +
                    3 * product(c.intermediate_size, c.hidden_size, count * outputs) +
                    static_cast<double>(count) * attention_work(c.shape(layer), position + tokens - outputs, outputs);
        }
        return total;
    }

  private:
    using Model = mistral::MistralModel<S, Cuda>;
    using State = mistral::SequenceState<bfloat16, Cuda>;
    using Chunk = typename Model::template SequenceChunk<bfloat16>;

    static Work product(Index rows, Index cols, Index tokens) {
        Work work{.bfloat16 = 2 * static_cast<double>(rows * cols * tokens)};
        if constexpr (mistral::QuantizedScalar<S>)
            work.bytes = static_cast<double>(Cuda::Matrix<S>::bytes_of(rows, cols));
        else
            work.bytes = static_cast<double>(rows * cols) * sizeof(S);
        return work;
    }

    Model& model_;
    std::vector<State> states_;
    std::vector<float> logits_;
};

template <class Body>
void measure_on(benchmark::State& state, const Gpu& gpu, const Work& work, Index tokens, Body body) {
    body();  // not timed: records passes, and brings scratch memory to life
    std::vector<double> seconds;
    for (auto _ : state) {
        const Stopwatch stopwatch;
        body();
        seconds.push_back(stopwatch.seconds());
    }
    const double copying = work.bytes / gpu.copied_bytes, computing = work.bfloat16 / gpu.operations;
    state.counters["of_limit"] = std::max(copying, computing) / median(seconds);
    state.counters["tokens/s"] = static_cast<double>(tokens) / median(seconds);
    state.SetLabel(copying > computing ? "copy bandwidth" : "cuBLASLt's product");
}

template <Scalar S>
void add_model_on(const Gpu& gpu) {
    const std::string name = concat("cuda/model/", mistral::ScalarTraits<S>::name);
    for (const Index position : {Index{0}, window})
        add_row(concat(name, "/decode/position:", position), [&gpu, position](benchmark::State& state) {
            GpuSequences<S> sequence(gpu, 1);
            measure_on(state, gpu, sequence.work(position, 1), 1, [&] { sequence.forward(position, 1); });
        })->Iterations(100);
    add_row(concat(name, "/decode/position:100000"), [&gpu](benchmark::State& state) {
        GpuSequences<S> sequence(gpu, 1);
        measure_on(state, gpu, sequence.work(100'000, 1), 1, [&] { sequence.forward(100'000, 1); });
        const auto seconds_at = [&](Index position) {
            const Stopwatch stopwatch;
            sequence.forward(position, 1);
            return stopwatch.seconds();
        };
        std::vector<double> ratios;  // of passes in turn, so that whatever disturbs the machine meets both
        for (int i = 0; i < 51; ++i) ratios.push_back(seconds_at(100'000) / seconds_at(5'000));
        state.counters["over_position_5000"] = median(ratios);
    })->Iterations(100);
    constexpr Index sequences = 8;
    add_row(concat(name, "/batch/sequences:", sequences), [&gpu](benchmark::State& state) {
        GpuSequences<S> together(gpu, sequences);
        measure_on(state, gpu, together.work(512, 1), sequences, [&] { together.forward(512, 1); });
    })->Iterations(20);
    for (const Index tokens : {512, 4096})
        add_row(concat(name, "/prefill/tokens:", tokens), [&gpu, tokens](benchmark::State& state) {
            GpuSequences<S> sequence(gpu, 1);
            measure_on(state, gpu, sequence.work(0, tokens), tokens, [&] { sequence.forward(0, tokens); });
        })->Iterations(5);
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) try {
    const auto ordinal = static_cast<int>(bench::take_number(argc, argv, "--gpu=", 0));
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    const bench::Gpu gpu = bench::probe_gpu(ordinal);
    benchmark::AddCustomContext("copied GB/s", mistral::concat(gpu.copied_bytes / 1e9));
    benchmark::AddCustomContext("bfloat16 TFLOP/s of cuBLASLt", mistral::concat(gpu.operations / 1e12));
    bench::add_model_on<mistral::bfloat16>(gpu);
    bench::add_model_on<mistral::Q8>(gpu);
    bench::add_model_on<mistral::Q4>(gpu);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
} catch (const std::exception& error) {
    std::cerr << "mistral_bench_cuda: " << error.what() << '\n';
    return 1;
}

#pragma once

#include "suite.hpp"

#include <mistral/base/config.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/base/window.hpp>
#include <mistral/device/cpu/cpu.hpp>
#include <mistral/device/cpu/quad_lanes.hpp>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <vector>

/// How much a row has to do whatever the code, and what part of the machine's limit it reaches.
namespace bench {

using mistral::ActivationPrecision;

/// Bytes to read from memory, and operations by the instruction that they are meant for.
struct Work {
    double bytes = 0;
    double float32 = 0;
    double bfloat16 = 0;
    double integer = 0;

    friend Work operator+(const Work& a, const Work& b) {
        return {a.bytes + b.bytes, a.float32 + b.float32, a.bfloat16 + b.bfloat16, a.integer + b.integer};
    }
    friend Work operator*(double times, const Work& work) {
        return {times * work.bytes, times * work.float32, times * work.bfloat16, times * work.integer};
    }
};

/// The least seconds that the work takes on this machine, and what bounds it: reading, or arithmetic (the roofline
/// model, doi:10.1145/1498765.1498785).
struct Bound {
    double seconds = 0;
    const char* limit = "";
    bool is_reading = false;
};
[[nodiscard]] inline Bound bound(const Work& work, double read_bandwidth) {
    const Limits& limits = machine().limits;
    const bool has_bfloat16 = limits.bfloat16 != limits.float32;
    const Bound parts[]{{work.float32 / limits.float32, "float32 peak"},
                        {work.bfloat16 / limits.bfloat16, has_bfloat16 ? "bfloat16 peak" : "float32 peak"},
                        {work.integer / limits.integer, "integer peak"}};
    Bound arithmetic;
    double largest = 0;
    for (const Bound& part : parts) {
        arithmetic.seconds += part.seconds;
        if (part.seconds > largest) arithmetic.limit = part.limit;
        largest = std::max(largest, part.seconds);
    }
    const Bound reading{work.bytes / read_bandwidth, "read bandwidth", true};
    return reading.seconds >= arithmetic.seconds ? reading : arithmetic;
}

/// Seconds since the stopwatch was made.
class Stopwatch {
  public:
    [[nodiscard]] double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

[[nodiscard]] inline double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

/// What part of its limit a row reaches. What is timed is cut into stretches. Arithmetic is as fast as the fastest of
/// them, which is how its limits are probed too. Memory is shared with others, who make it now twice as fast, now half:
/// its bandwidth is probed between stretches, each is held against the mean of its two neighbours, and medians are
/// told.
class LimitWatch {
  public:
    explicit LimitWatch(const Work& work)
        : work_(work), watches_memory_(bound(work, machine().limits.read_bandwidth / 2).is_reading) {}

    /// One iteration took so long. The row's clock, where it runs, stops for the probe.
    void add(double seconds, benchmark::State& state) {
        constexpr double shortest_stretch = 0.05;  // seconds
        stretch_seconds_ += seconds;
        ++stretch_iterations_;
        if (stretch_seconds_ < shortest_stretch) return;
        state.PauseTiming();
        close_stretch();
        state.ResumeTiming();
    }

    /// Tells what part of its limit the row reaches, which limit that is, and the tokens per second of rows that have
    /// any. Returns the seconds of an iteration.
    double report(benchmark::State& state, Index tokens) {
        if (stretch_iterations_ > 0) close_stretch();
        const double read_bandwidth = median(read_bandwidths_);
        const double seconds = watches_memory_ ? median(seconds_) : *std::min_element(seconds_.begin(), seconds_.end());
        state.counters["of_limit"] = watches_memory_ ? median(parts_) : *std::max_element(parts_.begin(), parts_.end());
        if (watches_memory_) state.counters["read_GB/s"] = read_bandwidth / 1e9;
        if (tokens > 0) state.counters["tokens/s"] = static_cast<double>(tokens) / seconds;
        state.SetLabel(bound(work_, read_bandwidth).limit);
        return seconds;
    }

  private:
    [[nodiscard]] double probe() const {
        return watches_memory_ ? machine().read_probe->sample() : machine().limits.read_bandwidth;
    }

    void close_stretch() {
        const double after = probe();
        const double seconds = stretch_seconds_ / stretch_iterations_;
        seconds_.push_back(seconds);
        read_bandwidths_.push_back((before_ + after) / 2);
        parts_.push_back(bound(work_, read_bandwidths_.back()).seconds / seconds);
        before_ = after;
        stretch_seconds_ = stretch_iterations_ = 0;
    }

    Work work_;
    bool watches_memory_;
    double before_ = probe();
    double stretch_seconds_ = 0, stretch_iterations_ = 0;
    std::vector<double> seconds_, read_bandwidths_, parts_;  // of each stretch
};

/// Times `body`, which does `work` on so many tokens. Returns the seconds of an iteration.
template <class Body>
double measure(benchmark::State& state, const Work& work, Index tokens, Body body) {
    LimitWatch watch(work);
    for (auto _ : state) {
        const Stopwatch stopwatch;
        body();
        watch.add(stopwatch.seconds(), state);
    }
    return watch.report(state, tokens);
}

template <class T>
[[nodiscard]] double bytes_of(const mistral::HostMatrix<T>& weights) {
    return static_cast<double>(weights.rows() * weights.cols()) * sizeof(T);
}
template <mistral::QuantizedScalar Q>
[[nodiscard]] double bytes_of(const mistral::PackedMatrix<Q>& weights) {
    return static_cast<double>(weights.bytes().size());
}

/// Reads all weights and multiplies them with each token. Activations in 15 bits are one operand of 16, or two of 8.
template <class S>
[[nodiscard]] Work linear_work(const mistral::Cpu::Matrix<S>& weights, Index tokens, ActivationPrecision precision) {
    Work work{.bytes = bytes_of(weights)};
    const double operations = 2 * static_cast<double>(weights.rows() * weights.cols() * tokens);
    if constexpr (mistral::QuantizedScalar<S>) {
        using Digit = typename mistral::cpu::QuadLanes<mistral::NativeInstructionSet>::Digit;
        const bool is_prompt = precision == ActivationPrecision::balanced && tokens > mistral::always_precise_tokens;
        const bool is_one =
            precision == ActivationPrecision::fast || sizeof(Digit) > 1 || (is_prompt && std::same_as<S, mistral::Q4>);
        if (is_prompt && machine().limits.has_tiles)
            work.bfloat16 = operations;
        else
            work.integer = is_one ? operations : 2 * operations;
    } else if constexpr (std::same_as<S, mistral::bfloat16>) {
        work.bfloat16 = operations;
    } else {
        work.float32 = operations;
    }
    return work;
}

/// Tokens from `position` on over a cache in bfloat16: reads what it holds of their windows, and multiplies each query
/// with the keys that it sees, and with as many values.
[[nodiscard]] inline Work attention_work(const mistral::Shape& shape, Index position, Index tokens) {
    const mistral::Window window{shape.window};
    Index seen = 0;
    for (Index p = position; p < position + tokens; ++p) seen += p - window.first_visible(p) + 1;
    const Index read = position - window.first_visible(position);
    return {.bytes = static_cast<double>(2 * read * shape.kv_heads * shape.head_dim) * sizeof(mistral::bfloat16),
            .bfloat16 = static_cast<double>(4 * seen * shape.query_heads * shape.head_dim)};
}

}  // namespace bench

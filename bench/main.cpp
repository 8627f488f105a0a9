// Measures the library against the limits of the machine. bench/run.sh builds it and runs everything; by itself:
//
//     mistral_bench [--threads=N] [--benchmark_filter=REGEX] [--benchmark_out=OUTPUT.json]
//
// Every row tells in `of_limit` what part of the machine's limit it reaches, and in its label which limit that is. The
// limits, probed before the first row, head the output; the bandwidth of memory, which others may share, is probed once
// more beside every row that it bounds, and told in `read_GB/s`.

#include "suite.hpp"

#include <mistral/base/error.hpp>

#include <benchmark/benchmark.h>

#include <iostream>
#include <thread>

namespace {

void add_limit(const char* name, double per_second) {
    benchmark::AddCustomContext(name, mistral::concat(per_second / 1e9));
}

}  // namespace

int main(int argc, char** argv) {
    try {
        bench::Machine& machine = bench::machine();
        machine.threads = bench::take_number(argc, argv, "--threads=", std::thread::hardware_concurrency());
        benchmark::Initialize(&argc, argv);
        if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
        machine.limits = bench::probe(machine.threads);
        machine.read_probe.emplace(machine.threads);
        benchmark::AddCustomContext("threads", mistral::concat(machine.threads));
        add_limit("read GB/s", machine.limits.read_bandwidth);
        add_limit("float32 GFLOP/s", machine.limits.float32);
        add_limit("bfloat16 GFLOP/s", machine.limits.bfloat16);
        add_limit("integer GOP/s", machine.limits.integer);
        bench::add_linear_maps();
        bench::add_attention();
        bench::add_models();
        bench::add_loading();
        benchmark::RunSpecifiedBenchmarks();
        benchmark::Shutdown();
    } catch (const std::exception& error) {
        std::cerr << "mistral_bench: " << error.what() << '\n';
        return 1;
    }
}

#pragma once

#include "probe.hpp"

#include <benchmark/benchmark.h>

#include <any>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

/// What the files of the suite share.
namespace bench {

/// Each file adds its rows when `main` asks for them, so that their order is known.
void add_linear_maps();
void add_attention();
void add_models();
void add_loading();

/// The machine in this run, set by `main` before any row runs.
struct Machine {
    Index threads = 0;
    Limits limits;
    std::optional<ReadProbe> read_probe;
};
[[nodiscard]] inline Machine& machine() {
    static Machine machine;
    return machine;
}

/// Takes an argument such as --threads=N out of the others and gives its number; `otherwise` where there is none.
[[nodiscard]] inline Index take_number(int& argc, char** argv, std::string_view flag, Index otherwise) {
    int kept = 0;
    for (int i = 0; i < argc; ++i)
        if (std::string_view(argv[i]).starts_with(flag))
            otherwise = std::atoll(argv[i] + flag.size());
        else
            argv[kept++] = argv[i];
    argc = kept;
    return otherwise;
}

template <class Run>
benchmark::internal::Benchmark* add_row(const std::string& name, Run run) {
    return benchmark::RegisterBenchmark(name.c_str(), std::move(run))->Unit(benchmark::kMillisecond);
}

/// A large object that consecutive rows share.
struct Shared {
    std::string key;
    std::any object;

    /// There is one at a time, as memory has room for one model.
    static Shared& only() {
        static Shared only;
        return only;
    }
};

/// The shared object of that key. Asking for another frees the last one first.
template <class Make>
auto& shared(const std::string& key, Make make) {
    Shared& only = Shared::only();
    if (key != only.key) {
        only.object.reset();
        only.object = make();
        only.key = key;
    }
    return std::any_cast<decltype(make())&>(only.object);
}

}  // namespace bench

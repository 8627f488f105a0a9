// Opens a checkpoint and generates with it: how long that takes, how much of the machine's read bandwidth decoding
// uses, and what memory of its own the process needs. bench/make_checkpoint.py makes a checkpoint of full size.
//
//     bench_whole_model DIRECTORY [threads]

#include <mistral/mistral.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

namespace {

using namespace mistral;

double seconds(const auto& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Bytes per second at which the machine reads a mapped file that lies in the page cache: the best of five passes over
/// the largest of the directory. Each thread reads eight streams at once, as a product with eight rows does: one alone
/// leaves bandwidth unused.
double read_bandwidth(const std::filesystem::path& directory, Index threads) {
    using Vector = xsimd::batch<std::uint64_t>;
    constexpr Index size = static_cast<Index>(Vector::size);
    constexpr Index streams = 8;
    constexpr Index per_stream = 32 * 1024;
    constexpr Index per_block = streams * per_stream;
    std::filesystem::path largest;
    for (const auto& entry : std::filesystem::directory_iterator(directory))
        if (largest.empty() || entry.file_size() > std::filesystem::file_size(largest)) largest = entry.path();
    const auto file = MappedFile::open(largest);
    const auto* memory = reinterpret_cast<const std::uint64_t*>(file->bytes().data());
    const Index blocks = static_cast<Index>(file->bytes().size() / sizeof(std::uint64_t)) / per_block;
    std::vector<std::uint64_t> results(static_cast<std::size_t>(blocks));
    ThreadPool pool(threads);
    double best = 0;
    for (int pass = 0; pass < 5; ++pass) {
        const double time = seconds([&] {
            pool.for_each(blocks, [&](Index, Index block) noexcept {
                const std::uint64_t* data = memory + block * per_block;
                Vector sums[streams];
                for (Vector& sum : sums) sum = Vector(std::uint64_t{0});
                for (Index i = 0; i < per_stream; i += size)
                    for (Index s = 0; s < streams; ++s)
                        sums[s] = sums[s] + Vector::load_unaligned(data + s * per_stream + i);
                for (const Vector& sum : sums) results[static_cast<std::size_t>(block)] += sum.get(0);
            });
        });
        best =
            std::max(best, static_cast<double>(blocks * per_block * static_cast<Index>(sizeof(std::uint64_t))) / time);
    }
    return best;
}

/// Resident memory that is no mapped file, in bytes, as Linux tells it.
double own_memory() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("RssAnon:", 0) == 0) return std::atof(line.c_str() + 8) * 1024;
    return 0;
}

/// Bytes of weights that one token reads: all but the embedding's other rows.
double weight_bytes(const Config& c) {
    const Index attention = c.hidden_size * c.head_dim * 2 * (c.query_heads + c.kv_heads);
    const Index per_layer = attention + 3 * c.hidden_size * c.intermediate_size + 2 * c.hidden_size;
    return 2.0 * static_cast<double>(c.layers * per_layer + c.vocab_size * c.hidden_size);
}

void measure(const std::string& directory, Index threads) {
    const double bandwidth = read_bandwidth(directory, threads);
    std::optional<MistralModel<bfloat16>> model;
    const double opening = seconds([&] { model = MistralModel<bfloat16>::load(directory, Cpu(threads)); });
    std::cout << "read bandwidth  " << bandwidth / 1e9 << " GB/s, " << model->device().threads() << " threads\n"
              << "opened in       " << opening << " s\n";

    Session session(*model, {.context = 4096});
    std::vector<Token> prompt(128, 3);
    for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<Token>(10 + i);
    session.append(prompt);  // brings the weights into memory
    session.reset();
    const double prefill = seconds([&] { session.append(prompt); });
    std::cout << "prompt of 128   " << 128 / prefill << " tokens/s\n";

    constexpr Index tokens = 24;
    auto generation = session.generate({}, {.max_tokens = tokens + 1, .ignore_eos = true});
    generation.next();  // chosen from the prompt's logits: computes nothing
    const double decode = seconds([&] {
        while (generation.next()) continue;  // computes the token before
    });
    const double rate = static_cast<double>(tokens) / decode;
    std::cout << "decode          " << rate << " tokens/s, " << 100 * rate * weight_bytes(model->config()) / bandwidth
              << " % of the read bandwidth\n"
              << "own memory      " << own_memory() / 1e6 << " MB, of which caches "
              << static_cast<double>(session.cache_bytes()) / 1e6 << " MB\n";
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2 || argc > 3) {
        std::cerr << "usage: bench_whole_model DIRECTORY [threads]\n";
        return 2;
    }
    try {
        measure(argv[1], argc > 2 ? std::atoll(argv[2]) : 0);
    } catch (const std::exception& error) {
        std::cerr << "bench_whole_model: " << error.what() << '\n';
        return 1;
    }
}

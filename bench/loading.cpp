// From a checkpoint to a model: opening one of full size, and quantising its weights.

#include "suite.hpp"
#include "synthetic.hpp"
#include "work.hpp"

#include <mistral/checkpoint/load.hpp>

#include <nlohmann/json.hpp>

#include <array>
#include <filesystem>
#include <fstream>
#include <string>

namespace bench {
namespace {

using mistral::concat;

/// A checkpoint of Mistral 7B's shape in the directory for temporary files, there while the object is. Its weights are
/// a hole in the file: 14.5 GB that take no space on the disk, as no weight is read.
class HollowCheckpoint {
  public:
    HollowCheckpoint() {
        std::filesystem::create_directory(directory_);
        const Config config = mistral_7b();
        std::ofstream(directory_ / "config.json") << nlohmann::json{{"architectures", {"MistralForCausalLM"}},
                                                                    {"model_type", "mistral"},
                                                                    {"hidden_act", "silu"},
                                                                    {"hidden_size", config.hidden_size},
                                                                    {"intermediate_size", config.intermediate_size},
                                                                    {"num_hidden_layers", config.layers},
                                                                    {"num_attention_heads", config.query_heads},
                                                                    {"num_key_value_heads", config.kv_heads},
                                                                    {"head_dim", config.head_dim},
                                                                    {"vocab_size", config.vocab_size},
                                                                    {"max_position_embeddings", config.max_positions},
                                                                    {"rms_norm_eps", config.norm_eps},
                                                                    {"rope_theta", config.rope_theta},
                                                                    {"sliding_window", config.window(0)},
                                                                    {"tie_word_embeddings", false}};
        nlohmann::json header;
        std::uint64_t end = 0;
        for (const auto& tensor : mistral::model_tensors(config)) {
            const std::uint64_t begin = end;
            std::uint64_t bytes = sizeof(bfloat16);
            for (const Index extent : tensor.shape) bytes *= static_cast<std::uint64_t>(extent);
            end += bytes;
            header[tensor.name] = {{"dtype", "BF16"}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
        }
        std::string text = header.dump();
        text.append(64 - (sizeof(std::uint64_t) + text.size()) % 64, ' ');  // weights that are not aligned are copied
        const std::uint64_t length = text.size();
        const auto file = directory_ / "model.safetensors";
        std::ofstream(file, std::ios::binary).write(reinterpret_cast<const char*>(&length), sizeof(length)) << text;
        std::filesystem::resize_file(file, sizeof(length) + length + end);
    }
    ~HollowCheckpoint() {
        std::error_code ignored;
        std::filesystem::remove_all(directory_, ignored);
    }
    HollowCheckpoint(const HollowCheckpoint&) = delete;
    HollowCheckpoint& operator=(const HollowCheckpoint&) = delete;

    [[nodiscard]] const std::filesystem::path& directory() const { return directory_; }

  private:
    std::filesystem::path directory_ = std::filesystem::temp_directory_path() / "mistral_bench_checkpoint";
};

void open(benchmark::State& state) {
    const HollowCheckpoint checkpoint;
    const Cpu device(machine().threads);
    for (auto _ : state)
        benchmark::DoNotOptimize(mistral::MistralModel<bfloat16>::load(checkpoint.directory(), device));
    state.SetLabel("no limit: reads no weights");
}

/// The bound is that of reading weights in bfloat16; the search for scales takes far longer.
template <mistral::QuantizedScalar Q>
void quantize(benchmark::State& state) {
    constexpr Index rows = 4096;
    constexpr Index cols = 4096;
    const Cpu device(machine().threads);
    const auto weights = synthetic_matrix<bfloat16>(rows, cols);
    const double seconds = measure(state, {.bytes = bytes_of(weights)}, 0, [&] {
        benchmark::DoNotOptimize(device.quantize<Q>(
            rows, cols, [&](Index row, float* to) { std::copy_n(weights.view.row(row), cols, to); }));
    });
    state.counters["weights/s"] = static_cast<double>(rows * cols) / seconds;
}

}  // namespace

void add_loading() {
    add_row("loading/open", open);
    add_row("loading/quantize/q8", quantize<mistral::Q8>);
    add_row("loading/quantize/q4", quantize<mistral::Q4>);
}

}  // namespace bench

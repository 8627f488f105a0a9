#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/error.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/checkpoint/checkpoint.hpp>
#include <mistral/checkpoint/convert.hpp>
#include <mistral/checkpoint/model_tensors.hpp>
#include <mistral/checkpoint/packed_file.hpp>
#include <mistral/model/mistral_model.hpp>
#include <mistral/model/weights.hpp>
#include <mistral/scalar/quantization.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// How far a loading is.
struct LoadProgress {
    Index tensors_done = 0;
    Index tensors = 0;  ///< of the whole model
};

/// What a caller may ask of MistralModel::load.
struct LoadOptions {
    /// Replaces the checkpoint's windows; repeats over the layers. Each is a number of positions above 0, or no_window.
    std::optional<std::vector<Index>> windows = std::nullopt;
    std::function<void(const LoadProgress&)> progress = nullptr;  ///< called after each tensor, on the calling thread
    std::stop_token stop = {};  ///< makes the loading throw Cancelled, at the latest after a few thousand elements
    /// Keeps what Q8 and Q4 make of the weights in this file, so that they are quantised once and later mapped; other
    /// scalars refuse it. A file that is damaged (see PackedFile), or of another scalar, version or state of the
    /// checkpoint's files, is replaced, which asks for its directory to be writable. Embedding and norms stay in the
    /// checkpoint. Another compiler may round a few weights differently, and its file counts nevertheless.
    std::optional<std::filesystem::path> packed_file = std::nullopt;
};

/// Brings the tensors of a checkpoint to a device, one after the other: those of a quantised scalar by way of the
/// packed file where the options name one. What it is made of must outlive it.
template <Scalar S, Device D>
class WeightLoader {
  public:
    WeightLoader(const Checkpoint& checkpoint, const D& device, const LoadOptions& options)
        : checkpoint_(checkpoint),
          device_(device),
          options_(options),
          progress_{.tensors_done = 0,
                    .tensors = static_cast<Index>(checkpoint.tensors().size()) + (quantizes_embedding() ? 1 : 0)} {}

    /// All weights. Throws Error and Cancelled.
    [[nodiscard]] ModelWeights<S, D> load() {
        if (options_.packed_file) open_packed_file(*options_.packed_file);
        const Config& config = checkpoint_.config();
        ModelWeights<S, D> weights;
        weights.embedding = matrix<EmbeddingScalar<S>>(embedding_name);
        for (Index layer = 0; layer < config.layers; ++layer) weights.blocks.push_back(block(layer_name(layer)));
        weights.norm = matrix<Activation<S>>("model.norm.weight");
        if constexpr (!QuantizedScalar<S>)
            weights.output = config.tied_embeddings ? weights.embedding : matrix<S>(output_name);
        else
            weights.output = matrix<S>(config.tied_embeddings ? embedding_name : output_name);
        return weights;
    }

  private:
    static constexpr const char* embedding_name = "model.embed_tokens.weight";
    static constexpr const char* output_name = "lm_head.weight";

    /// Whether the table of the embedding is read once more as the output's weights, which are quantised.
    [[nodiscard]] bool quantizes_embedding() const {
        return QuantizedScalar<S> && checkpoint_.config().tied_embeddings;
    }

    template <class T>
    using Matrix = typename D::template Matrix<T>;

    BlockWeights<S, D> block(const std::string& layer) {
        BlockWeights<S, D> weights;
        weights.attention_norm = matrix<Activation<S>>(layer + "input_layernorm.weight");
        weights.attention.query = matrix<S>(layer + "self_attn.q_proj.weight");
        weights.attention.key = matrix<S>(layer + "self_attn.k_proj.weight");
        weights.attention.value = matrix<S>(layer + "self_attn.v_proj.weight");
        weights.attention.output = matrix<S>(layer + "self_attn.o_proj.weight");
        weights.feed_forward_norm = matrix<Activation<S>>(layer + "post_attention_layernorm.weight");
        weights.feed_forward.gate = matrix<S>(layer + "mlp.gate_proj.weight");
        weights.feed_forward.up = matrix<S>(layer + "mlp.up_proj.weight");
        weights.feed_forward.down = matrix<S>(layer + "mlp.down_proj.weight");
        return weights;
    }

    /// Maps the packed file, which is first written where there is none that is up to date.
    void open_packed_file(const std::filesystem::path& path) {
        if constexpr (QuantizedScalar<S>) {
            std::vector<PackedFile::Part> parts;
            for (const ModelTensor& tensor : model_tensors(checkpoint_.config()))
                if (tensor.shape.size() == 2 && (tensor.name != embedding_name || quantizes_embedding()))
                    parts.push_back(
                        {tensor.name, static_cast<std::size_t>(Matrix<S>::bytes_of(tensor.shape[0], tensor.shape[1]))});
            PackedFile file(path,
                            concat(ScalarTraits<S>::name, ", quantised by version ", quantization_version, ", in ",
                                   Matrix<S>::layout, '\n', checkpoint_.fingerprint()),
                            std::move(parts));
            was_written_ = !file.open();
            if (was_written_) file.write([this](const PackedFile::Part& part) { return matrix<S>(part.name); });
            packed_ = std::move(file);
        } else {
            fail(utf8(path), " cannot hold weights of the type ", ScalarTraits<S>::name, ", expected q8 or q4");
        }
    }

    /// The tensor `name` as a matrix; a vector becomes one row.
    template <class T>
    Matrix<T> matrix(std::string_view name) {
        const TensorView& tensor = checkpoint_.tensor(name);
        if (options_.stop.stop_requested()) throw Cancelled("loading was cancelled at " + tensor.origin);
        const Index rows = tensor.shape.size() == 1 ? 1 : tensor.shape.front();
        const Index cols = tensor.shape.back();
        Matrix<T> loaded = [&] {
            if constexpr (!QuantizedScalar<T>)
                return device_.matrix(host_matrix<T>(tensor, rows, cols, options_.stop));
            else if (packed_)
                return device_.template mapped<T>(packed_->owner(), packed_->data(name), rows, cols);
            else
                return quantized<T>(tensor, rows, cols);
        }();
        if (QuantizedScalar<T> && packed_ && was_written_) return loaded;  // counted when it was quantised
        ++progress_.tensors_done;
        if (options_.progress) options_.progress(progress_);
        return loaded;
    }

    /// The tensor in a quantised format. The device asks for rows from several threads.
    template <QuantizedScalar T>
    Matrix<T> quantized(const TensorView& tensor, Index rows, Index cols) const {
        const auto convert = converter<float>(tensor);
        const Index row_bytes = cols * info(tensor.dtype).bits / 8;
        std::atomic<bool> in_range = true;
        Matrix<T> loaded = device_.template quantize<T>(rows, cols, [&](Index row, float* to) {
            if (options_.stop.stop_requested()) return;
            convert(tensor.bytes.data() + row * row_bytes, to, cols);
            const auto fits = [](float x) { return std::abs(x) <= largest_weight; };
            if (!std::all_of(to, to + cols, fits)) in_range = false;
        });
        if (options_.stop.stop_requested()) throw Cancelled("loading was cancelled at " + tensor.origin);
        require(in_range, tensor.origin, " holds numbers beyond the range of ", ScalarTraits<T>::name,
                ", which ends at ", largest_weight);
        return loaded;
    }

    const Checkpoint& checkpoint_;
    const D& device_;
    const LoadOptions& options_;
    LoadProgress progress_;
    std::optional<PackedFile> packed_;  // once it is mapped
    bool was_written_ = false;          // the packed file, by this loading
};

/// The config with the caller's windows. Throws Error where they are none, or contradict `fixed`, in a message that
/// names the checkpoint and the layer: before any weights are converted.
[[nodiscard]] inline Config config_to_load(const Checkpoint& checkpoint, const LoadOptions& options,
                                           const Shape& fixed) {
    Config config = checkpoint.config();
    if (options.windows) config.windows = *options.windows;
    require(!config.windows.empty(), "the windows to load a model with are an empty list, expected one at least");
    for (Index layer = 0; layer < config.layers; ++layer) {
        try {
            const Index window = config.window(layer);  // a Dynamic one would pass for left open
            require(window > 0, "window is ", window, ", expected a positive number");
            static_cast<void>(resolve(fixed, config.shape(layer)));
        } catch (const Error& error) {
            fail(utf8(checkpoint.directory()), ", layer ", layer, ": ", error.what());
        }
    }
    return config;
}

template <Scalar S, class D, Shape fixed>
MistralModel<S, D, fixed> MistralModel<S, D, fixed>::load(const std::filesystem::path& directory, D device,
                                                          const LoadOptions& options) {
    const Checkpoint checkpoint = Checkpoint::open(directory);
    Config config = config_to_load(checkpoint, options, fixed);
    auto weights = WeightLoader<S, D>(checkpoint, device, options).load();
    return MistralModel(std::move(device), std::move(config), std::move(weights));
}

template <Scalar S, class D, Shape fixed>
MistralModel<S, D, fixed> MistralModel<S, D, fixed>::load(const std::filesystem::path& directory, D device) {
    return load(directory, std::move(device), LoadOptions{});
}

}  // namespace mistral

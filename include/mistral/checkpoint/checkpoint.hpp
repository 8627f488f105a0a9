#pragma once

#include <mistral/base/checksum.hpp>
#include <mistral/base/config.hpp>
#include <mistral/base/error.hpp>
#include <mistral/base/file_in_directory.hpp>
#include <mistral/base/mapped_file.hpp>
#include <mistral/checkpoint/config_json.hpp>
#include <mistral/checkpoint/json.hpp>
#include <mistral/checkpoint/model_tensors.hpp>
#include <mistral/checkpoint/safetensors.hpp>
#include <mistral/checkpoint/shard_index.hpp>
#include <mistral/checkpoint/tensor_view.hpp>

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace mistral {

/// A model's directory: its config and its tensors, mapped. Opening it reads the config and the headers only and
/// checks that every tensor is there, of the right shape and of a type that can be converted. Tensors are known by
/// their Hugging Face names, whatever the directory calls them.
class Checkpoint {
  public:
    /// Opens a directory of one of two kinds; where it is both, as that of Mistral 7B v0.3, the first one counts:
    ///
    ///   Hugging Face's   config.json with model.safetensors, else with the shards that model.safetensors.index.json
    ///   names Mistral's own    params.json with consolidated.safetensors, else with the shards that
    ///                    consolidated.safetensors.index.json names
    ///
    /// No other file is looked at. Names of shards must be plain file names. Links that lead out of the directory are
    /// refused as `file_in_directory` says.
    ///
    /// Tensors that say nothing (`rotary_emb.inv_freq`) are ignored, all others that the model does not have, such as
    /// biases, are refused. Where lm_head.weight is missing, the config must say that the embeddings are tied; where
    /// it is there it is used, as transformers 5 does.
    ///
    /// Throws Error where something is missing, damaged, contradictory or not supported.
    [[nodiscard]] static Checkpoint open(const std::filesystem::path& directory) {
        std::error_code error;
        const auto root = std::filesystem::canonical(directory, error);
        require(!error, utf8(directory), " cannot be opened: ", error.message());
        require(std::filesystem::is_directory(root, error), utf8(directory),
                " is not a directory, expected one with a model in it", advice_on(root));
        for (const Layout& layout : layouts)
            if (has(root, layout.config) && (has(root, layout.weights) || has(root, index_of(layout))))
                return Checkpoint(root, layout);
        fail(utf8(directory), " holds no model: ", what_lacks(root));
    }

    /// The directory without its links.
    [[nodiscard]] const std::filesystem::path& directory() const { return directory_; }
    [[nodiscard]] const Config& config() const { return config_; }

    /// All tensors of the model by their Hugging Face names.
    [[nodiscard]] const Safetensors::Tensors& tensors() const { return tensors_; }

    /// The tensor of a Hugging Face name. Throws Error for a name that the model does not have.
    [[nodiscard]] const TensorView& tensor(std::string_view name) const {
        const auto found = tensors_.find(name);
        require(found != tensors_.end(), utf8(directory_), " has no tensor ", quote(name));
        return found->second;
    }

    /// Text that is another one where a file of tensors has changed: a line for each of them, with its name, size, time
    /// of modification and the checksum of its header. It moves with the directory, and no tensor is read for it.
    [[nodiscard]] const std::string& fingerprint() const { return fingerprint_; }

  private:
    /// The files of one kind of directory.
    struct Layout {
        const char* config;
        const char* weights;
        Config (*read)(const Json&);
        std::string ModelTensor::*name;  // that its files use
    };

    static constexpr Layout layouts[] = {
        {"config.json", "model.safetensors", &ConfigReader::config_json, &ModelTensor::name},
        {"params.json", "consolidated.safetensors", &ConfigReader::params_json, &ModelTensor::consolidated_name},
    };

    Checkpoint(std::filesystem::path root, const Layout& layout) : directory_(std::move(root)) {
        config_ = layout.read(read_json(layout.config));
        auto found = has(directory_, layout.weights) ? read_tensors(layout.weights) : read_shards(index_of(layout));
        const bool separate_output = found.contains(output_tensor(config_).*layout.name);
        require(separate_output || config_.tied_embeddings, utf8(directory_), " lacks the tensor ",
                output_tensor(config_).*layout.name, ", and ", layout.config, " does not say that it is tied");
        config_.tied_embeddings = !separate_output;
        for (const ModelTensor& expected : model_tensors(config_)) take(expected, expected.*layout.name, found);
        for (const auto& [name, tensor] : found)
            require(is_ignored(name), tensor.origin, " is not a tensor of the model that ", layout.config,
                    " describes, which has ", config_.layers, " layers without biases: this model is not supported");
    }

    /// Moves one tensor from those found in the files to those of the model.
    void take(const ModelTensor& expected, const std::string& name, Safetensors::Tensors& found) {
        const auto node = found.extract(name);
        require(!node.empty(), utf8(directory_), " lacks the tensor ", name);
        TensorView& tensor = node.mapped();
        require(tensor.shape == expected.shape, tensor.origin, " has the shape ", shape_text(tensor.shape),
                ", expected ", shape_text(expected.shape));
        require(is_float(tensor.dtype), tensor.origin, " has the type ", info(tensor.dtype).name,
                ", expected BF16, F16, F32 or F64");
        tensors_.emplace(expected.name, std::move(tensor));
    }

    static bool is_float(DType dtype) {
        return dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f32 || dtype == DType::f64;
    }

    /// Rotary frequencies, which follow from the config: old conversions of transformers and Llama store them.
    static bool is_ignored(std::string_view name) {
        return name.ends_with("rotary_emb.inv_freq") || name == "rope.freqs";
    }

    static std::string index_of(const Layout& layout) { return concat(layout.weights, ".index.json"); }

    /// Opens the shards that an index names, and of each exactly the tensors that the index says are in it.
    [[nodiscard]] Safetensors::Tensors read_shards(const std::string& index_name) {
        Safetensors::Tensors all;
        for (const auto& [shard, names] : read_shard_index(read_json(index_name))) {
            Safetensors::Tensors found = read_tensors(shard);
            for (const std::string& name : names) {
                auto node = found.extract(name);
                require(!node.empty(), utf8(directory_ / shard), " lacks the tensor ", quote(name), ", which ",
                        index_name, " says it holds");
                all.insert(std::move(node));
            }
            for (const auto& [name, tensor] : found)
                require(is_ignored(name), tensor.origin, " is not listed in ", index_name);
        }
        return all;
    }

    [[nodiscard]] Safetensors::Tensors read_tensors(const std::string& name) {
        const auto path = resolve(name);
        // Asked for before the file is opened: should another take its place in between, the time is too early, and
        // what is made of the file passes for stale.
        std::error_code error;
        const auto modified = std::filesystem::last_write_time(path, error);
        const auto file = MappedFile::open(path);
        const std::string where = utf8(directory_ / name);
        auto tensors = Safetensors::parse(file->bytes(), file, where).tensors();
        Checksum header;
        header.add(std::as_bytes(std::span(Safetensors::header_of(file->bytes(), where))));
        fingerprint_ += concat(quote(name), ", ", file->bytes().size(), " bytes, modified at ",
                               modified.time_since_epoch().count(), ", header ", header.value(), '\n');
        return tensors;
    }

    [[nodiscard]] Json read_json(const std::string& name) const {
        const auto file = MappedFile::open(resolve(name));
        const auto bytes = file->bytes();
        return Json::parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, utf8(directory_ / name));
    }

    /// The file that `name` stands for. Throws Error where its links lead out of the directory.
    [[nodiscard]] std::filesystem::path resolve(const std::string& name) const {
        return file_in_directory(directory_, std::filesystem::path(std::u8string(name.begin(), name.end())));
    }

    static bool has(const std::filesystem::path& directory, const std::string& name) {
        std::error_code error;
        return std::filesystem::exists(std::filesystem::symlink_status(directory / name, error));
    }

    static std::string what_lacks(const std::filesystem::path& root) {
        std::error_code error;
        for (auto entry = std::filesystem::directory_iterator(root, error);
             !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
            if (auto advice = why_unsupported(entry->path()); !advice.empty()) return advice;
        }
        return "expected config.json with model.safetensors or model.safetensors.index.json, or params.json with "
               "consolidated.safetensors or consolidated.safetensors.index.json";
    }

    /// What to do instead of opening `file`; empty where nothing is known of such a file.
    static std::string advice_on(const std::filesystem::path& file) {
        if (file.extension() == ".safetensors") return ": give the one that holds the file";
        const std::string reason = why_unsupported(file);
        return reason.empty() ? reason : ": " + reason;
    }

    /// Why the weights in `file` are not read, and what to do about it; empty for files of other kinds.
    static std::string why_unsupported(const std::filesystem::path& file) {
        const auto extension = file.extension();
        const std::string name = utf8(file.filename());
        if (extension == ".bin" || extension == ".pth" || extension == ".pt")
            return concat(name, " looks like a pickle, which may run code when it is read. ", how_to_convert(name));
        if (extension == ".gguf")
            return concat(name, " is GGUF, which is not supported; expected the model's safetensors files");
        return {};
    }

    static std::string how_to_convert(std::string_view name) {
        if (name.ends_with(".bin"))
            return "Write safetensors with Python: transformers.AutoModelForCausalLM.from_pretrained(directory, "
                   "dtype=\"auto\").save_pretrained(new_directory)";
        return concat("Write safetensors with Python: safetensors.torch.save_file(torch.load(\"", escape(name),
                      "\", map_location=\"cpu\", weights_only=True), \"consolidated.safetensors\")");
    }

    std::filesystem::path directory_;
    Config config_;
    Safetensors::Tensors tensors_;
    std::string fingerprint_;
};

}  // namespace mistral

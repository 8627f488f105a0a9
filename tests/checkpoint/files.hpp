#pragma once

#include <mistral/base/error.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// Files for tests, written and read without the library.
namespace files {

using Path = std::filesystem::path;

inline const Path tiny = MISTRAL_TEST_DATA "/tiny";
inline const Path reference = MISTRAL_TEST_DATA "/reference";
inline const Path malformed = MISTRAL_TEST_DATA "/checkpoint/malformed";

/// A directory that is removed with all that is in it.
class ScratchDirectory {
  public:
    ScratchDirectory() {
        std::random_device random;
        path_ = std::filesystem::canonical(std::filesystem::temp_directory_path()) /
                ("mistral_test_" + std::to_string(random()) + std::to_string(random()));
        std::filesystem::create_directory(path_);
    }
    ~ScratchDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    ScratchDirectory(const ScratchDirectory&) = delete;
    ScratchDirectory& operator=(const ScratchDirectory&) = delete;

    [[nodiscard]] const Path& path() const { return path_; }
    [[nodiscard]] Path operator/(const Path& name) const { return path_ / name; }

  private:
    Path path_;
};

inline std::string read(const Path& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error("no file " + path.string());
    return {std::istreambuf_iterator<char>(in), {}};
}

inline void write(const Path& path, const std::string& bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

inline nlohmann::json read_json(const Path& path) {
    return nlohmann::json::parse(read(path));
}

/// The bytes of a safetensors file of `header` and `data`.
inline std::string safetensors(const std::string& header, const std::string& data = "") {
    const std::uint64_t length = header.size();
    std::string file(sizeof(length), '\0');
    std::memcpy(file.data(), &length, sizeof(length));
    return file + header + data;
}

/// A tensor as it stands in a file.
struct Tensor {
    std::string name;
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::string bytes;
};

inline std::string safetensors(const std::vector<Tensor>& tensors) {
    nlohmann::json header = nlohmann::json::object();
    std::string data;
    for (const Tensor& tensor : tensors) {
        header[tensor.name] = {{"dtype", tensor.dtype},
                               {"shape", tensor.shape},
                               {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
        data += tensor.bytes;
    }
    return safetensors(header.dump(), data);
}

/// What a safetensors file holds.
inline std::vector<Tensor> read_safetensors(const Path& path) {
    const std::string file = read(path);
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), sizeof(length));
    std::vector<Tensor> tensors;
    const auto header = nlohmann::json::parse(file.substr(8, length));
    for (const auto& [name, entry] : header.items()) {
        if (name == "__metadata__") continue;
        const auto begin = entry.at("data_offsets")[0].get<std::size_t>();
        const auto end = entry.at("data_offsets")[1].get<std::size_t>();
        tensors.push_back({name, entry.at("dtype"), entry.at("shape"), file.substr(8 + length + begin, end - begin)});
    }
    return tensors;
}

inline std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text));
}

/// The message of the mistral::Error that `call` throws; empty where it throws none. Other exceptions pass.
template <class Call>
std::string message_of(Call&& call) {
    try {
        static_cast<void>(call());
        return {};
    } catch (const mistral::Error& error) {
        return error.what();
    }
}

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// A part of the manifest of malformed files: the entries of one folder. Fails where there is none.
inline std::vector<nlohmann::json> manifest(const std::string& folder) {
    std::vector<nlohmann::json> entries;
    const nlohmann::json all = read_json(malformed / "manifest.json");
    for (const auto& entry : all)
        if (entry.at("file").get<std::string>().starts_with(folder + "/")) entries.push_back(entry);
    if (entries.empty()) throw std::runtime_error("no malformed files in " + folder);
    return entries;
}

}  // namespace files

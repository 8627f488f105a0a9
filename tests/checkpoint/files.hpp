#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include <message_of.hpp>

/// Files for tests, written and read without the library.
namespace files {

using Path = std::filesystem::path;

inline const Path tiny = MISTRAL_TEST_DATA "/tiny";
inline const Path hugging_face = tiny / "hugging_face";
inline const Path consolidated = tiny / "consolidated";
inline const Path sharded = tiny / "sharded";
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

    /// What is directly in it, in the order of names.
    [[nodiscard]] std::vector<std::string> names() const {
        std::vector<std::string> names;
        for (const auto& entry : std::filesystem::directory_iterator(path_))
            names.push_back(entry.path().filename().string());
        std::sort(names.begin(), names.end());
        return names;
    }

  private:
    Path path_;
};

#if !defined(_WIN32)

/// While it lives, this process may read a directory of its own but not write to it: root, who may do all, is somebody
/// else meanwhile. False where root cannot be.
class ReadOnly {
  public:
    explicit ReadOnly(Path directory)
        : directory_(std::move(directory)), user_(::geteuid()), works_(set(0555) && (user_ != 0 || become(nobody))) {}
    ~ReadOnly() {
        if (!become(user_) || !set(0700)) std::abort();
    }
    ReadOnly(const ReadOnly&) = delete;
    ReadOnly& operator=(const ReadOnly&) = delete;

    explicit operator bool() const { return works_; }

  private:
    static constexpr uid_t nobody = 65534;

    [[nodiscard]] bool set(mode_t permissions) const { return ::chmod(directory_.c_str(), permissions) == 0; }
    static bool become(uid_t user) { return ::seteuid(user) == 0; }

    Path directory_;
    uid_t user_;
    bool works_;
};

/// While it lives, no file of this process grows beyond so many bytes: a disk without room.
class SizeLimit {
  public:
    explicit SizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
        if (::getrlimit(RLIMIT_FSIZE, &before_) != 0) std::abort();
        set({.rlim_cur = bytes, .rlim_max = before_.rlim_max});
    }
    ~SizeLimit() {
        set(before_);
        std::signal(SIGXFSZ, handler_);
    }
    SizeLimit(const SizeLimit&) = delete;
    SizeLimit& operator=(const SizeLimit&) = delete;

    static constexpr const char* message = "File too large";

  private:
    static void set(const rlimit& limit) {
        if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) std::abort();
    }

    void (*handler_)(int);
    rlimit before_{};
};

#endif

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

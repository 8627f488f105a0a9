#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/quote.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace mistral {

/// The only file in `directory` that is named for a version of Mistral's tokenizers, or an empty path where there is
/// none. Throws Error where there are several.
[[nodiscard]] inline std::filesystem::path find_versioned_tokenizer(const std::filesystem::path& directory) {
    std::vector<std::filesystem::path> found;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
        const std::string name = utf8(entry.path().filename());
        for (const std::string_view ending : {".model.v1", ".model.v2", ".model.v3"})
            if (name.ends_with(ending)) found.push_back(entry.path());
    }
    std::sort(found.begin(), found.end());
    if (found.size() > 1)
        fail(utf8(directory), " holds several tokenizers, ", utf8(found.front().filename()), " and ",
             utf8(found.back().filename()), " among them: name the one to load");
    return found.empty() ? std::filesystem::path() : found.front();
}

/// The SentencePiece model in `path` if that is a directory: tokenizer.model, or else tokenizer.model.v3, or else the
/// only file named *.model.v1, *.model.v2 or *.model.v3. `path` itself if it is none. Throws Error where none is found.
[[nodiscard]] inline std::filesystem::path find_tokenizer_file(const std::filesystem::path& path) {
    constexpr std::string_view unsupported =
        " is not supported, expected a SentencePiece model such as tokenizer.model";
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
        require(path.extension() != ".json", utf8(path), unsupported);
        return path;
    }
    for (const char* name : {"tokenizer.model", "tokenizer.model.v3"})
        if (std::filesystem::exists(std::filesystem::symlink_status(path / name, error))) return path / name;
    if (auto versioned = find_versioned_tokenizer(path); !versioned.empty()) return versioned;
    for (const char* name : {"tekken.json", "tokenizer.json"})
        if (std::filesystem::exists(path / name, error)) fail(utf8(path / name), unsupported);
    fail(utf8(path),
         " holds no tokenizer, expected tokenizer.model, tokenizer.model.v3, or one file named *.model.v1, "
         "*.model.v2 or *.model.v3");
}

}  // namespace mistral

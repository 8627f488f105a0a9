#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/quote.hpp>

#include <algorithm>
#include <filesystem>
#include <system_error>

namespace mistral {

/// The file that `name` stands for in a model's directory, its links followed. They may lead to another file inside
/// the directory, or, in a cache of huggingface_hub (.../snapshots/<revision>), to one in its blobs, and nowhere else,
/// so that a directory from a stranger cannot bring other files into a model. The directory itself may be reached by
/// any links. Throws Error where there is no such file, and where links lead elsewhere.
[[nodiscard]] inline std::filesystem::path file_in_directory(const std::filesystem::path& directory,
                                                             const std::filesystem::path& name) {
    const auto is_inside = [](const std::filesystem::path& file, const std::filesystem::path& folder) {
        return std::mismatch(folder.begin(), folder.end(), file.begin(), file.end()).first == folder.end();
    };
    const auto path = directory / name;
    std::error_code error;
    auto target = std::filesystem::canonical(path, error);
    require(!error, utf8(path), " cannot be opened: ", error.message());
    const auto root = std::filesystem::canonical(directory, error);
    require(!error, utf8(directory), " cannot be opened: ", error.message());
    const auto blobs = root.parent_path().parent_path() / "blobs";
    const bool cached = root.parent_path().filename() == "snapshots" && is_inside(target, blobs);
    require(is_inside(target, root) || cached, utf8(path), " is a link to ", utf8(target),
            ", expected a file in the directory: open the directory that holds the files, or copy them");
    return target;
}

}  // namespace mistral

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/checkpoint/json.hpp>

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <string_view>

namespace mistral {

/// The files of a checkpoint that is split into shards, each with the names of the tensors in it.
using ShardIndex = std::map<std::string, std::set<std::string>>;

/// Whether `name` is that of a file in its directory, on every system: no separators, drives, streams, controls.
[[nodiscard]] inline bool is_plain_file_name(std::string_view name) {
    constexpr std::size_t longest = 255;
    constexpr std::string_view special = "/\\:";
    return !name.empty() && name.size() <= longest && name != "." && name != ".." &&
           std::none_of(name.begin(), name.end(), [=](char c) {
               return static_cast<unsigned char>(c) < 0x20 || c == 0x7f || special.find(c) != std::string_view::npos;
           });
}

/// Reads a `*.safetensors.index.json`, whose `weight_map` gives each tensor's shard. Its `metadata` says nothing that
/// is needed. Throws Error where the map is missing or empty, or a shard is not a plain file name: one in a
/// subdirectory is refused with all other paths.
[[nodiscard]] inline ShardIndex read_shard_index(const Json& index) {
    ShardIndex shards;
    const Json map = index.at("weight_map");
    map.for_each_member([&](const std::string& tensor, const Json& shard) {
        shard.expect(is_plain_file_name(shard.text()), "the plain name of a file beside the index");
        shards[shard.text()].insert(tensor);
    });
    map.expect(!shards.empty(), "one with a tensor at least");
    return shards;
}

}  // namespace mistral

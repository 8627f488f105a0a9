#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/mapped_file.hpp>
#include <mistral/checkpoint/json.hpp>
#include <mistral/checkpoint/tensor_view.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// A safetensors file (https://github.com/huggingface/safetensors#format): eight bytes with the length of the header,
/// the header as JSON, the tensors' bytes. All that the header says is checked before it is believed:
///
///   - the header lies inside the file, begins with '{' as the format demands, has no key twice, and per tensor exactly
///     a known dtype, a shape of at most `max_rank` extents, and two offsets that agree with them;
///   - the tensors cover the rest of the file without gap, overlap or remainder, as the reference implementation
///     demands; empty tensors may lie anywhere between others;
///   - `__metadata__` maps texts to texts.
///
/// The one limit that the format does not have is JsonBuilder's on the size of the header: 1 MiB where the format
/// allows 100 MB. Names may be any text, the empty one included. Nothing of the tensors is read.
class Safetensors {
  public:
    using Tensors = std::map<std::string, TensorView, std::less<>>;

    static constexpr std::size_t max_rank = 64;  ///< that of PyTorch

    /// Maps the file. Throws Error where it cannot be read or is not what is said above.
    [[nodiscard]] static Safetensors open(const std::filesystem::path& file) {
        const auto mapped = MappedFile::open(file);
        return parse(mapped->bytes(), mapped, mapped->name());
    }

    /// The same of a file in memory, which `owner` keeps alive. `name` says in messages which file it is.
    [[nodiscard]] static Safetensors parse(std::span<const std::byte> file, std::shared_ptr<const void> owner,
                                           const std::string& name) {
        const std::string_view header = header_of(file, name);
        const auto data = file.subspan(length_bytes + header.size());
        Safetensors parsed;
        std::vector<Extent> extents;
        Json::parse(header, name).for_each_member([&](const std::string& key, const Json& entry) {
            if (key == "__metadata__")
                return entry.for_each_member([](auto&, const Json& value) { static_cast<void>(value.text()); });
            extents.push_back(extent_of(entry, data.size()));
            const auto [begin, end] = extents.back();
            parsed.tensors_.emplace(key, TensorView{dtype_of_entry(entry), shape_of(entry),
                                                    data.subspan(begin, end - begin), owner, entry.where()});
        });
        require_tiling(std::move(extents), data.size(), name);
        return parsed;
    }

    [[nodiscard]] const Tensors& tensors() const { return tensors_; }

    /// The header of a file, JSON that says which tensors are where in it; of that, only the length was checked.
    /// Throws Error, in which `name` says which file it is, where it is not there.
    [[nodiscard]] static std::string_view header_of(std::span<const std::byte> file, const std::string& name) {
        require(file.size() >= length_bytes, name, " has ", file.size(),
                " bytes, expected a safetensors file, which begins with the length of its header in 8 bytes");
        std::uint64_t length = 0;
        std::memcpy(&length, file.data(), length_bytes);
        require(length <= file.size() - length_bytes, name, " says that its header has ", length, " bytes, but only ",
                file.size() - length_bytes, " follow: it is truncated, or no safetensors file");
        require(length <= JsonBuilder::max_bytes, name, " has a header of ", length, " bytes, expected at most ",
                JsonBuilder::max_bytes);
        const std::string_view header(reinterpret_cast<const char*>(file.data()) + length_bytes,
                                      static_cast<std::size_t>(length));
        require(header.starts_with('{'), name, " has a header that begins with ", quote(header.substr(0, 1)),
                ", expected '{'");
        return header;
    }

  private:
    static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");
    static constexpr std::size_t length_bytes = sizeof(std::uint64_t);

    /// The first byte of a tensor's data and the one after its last.
    using Extent = std::pair<std::size_t, std::size_t>;

    static DType dtype_of_entry(const Json& entry) {
        const auto dtype = find_dtype(entry.at("dtype").text());
        entry.at("dtype").expect(dtype.has_value(), "an element type of the safetensors format");
        return *dtype;
    }

    static std::vector<Index> shape_of(const Json& entry) {
        std::vector<Index> shape;
        for (const Json& extent : entry.at("shape").elements(max_rank))
            shape.push_back(extent.integer(0, std::numeric_limits<Index>::max()));
        return shape;
    }

    /// The bytes that dtype and shape call for. Throws Error where they cannot be counted, or end within a byte.
    static std::uint64_t size_of(const Json& entry) {
        std::uint64_t bits = static_cast<std::uint64_t>(info(dtype_of_entry(entry)).bits);
        for (const Index extent : shape_of(entry)) {
            const auto factor = static_cast<std::uint64_t>(extent);
            require(factor == 0 || bits <= std::numeric_limits<std::uint64_t>::max() / factor, entry.where(),
                    ".shape is ", shape_text(shape_of(entry)), ", more than a file can hold");
            bits *= factor;
        }
        require(bits % 8 == 0, entry.where(), " has ", bits, " bits, expected whole bytes");
        return bits / 8;
    }

    static Extent extent_of(const Json& entry, std::size_t data_size) {
        require(entry.member_count() == 3, entry.where(), " has ", entry.member_count(),
                " entries, expected dtype, shape and data_offsets");
        const std::uint64_t size = size_of(entry);
        const Json list = entry.at("data_offsets");
        const auto offsets = list.elements(2);
        list.expect(offsets.size() == 2, "a list of two offsets");
        const auto limit = static_cast<Index>(data_size);
        const auto begin = static_cast<std::uint64_t>(offsets[0].integer(0, limit));
        const auto end = static_cast<std::uint64_t>(offsets[1].integer(static_cast<Index>(begin), limit));
        require(end - begin == size, entry.where(), " spans ", end - begin, " bytes, expected ", size, " for ",
                entry.at("dtype").text(), " of the shape ", shape_text(shape_of(entry)));
        return {static_cast<std::size_t>(begin), static_cast<std::size_t>(end)};
    }

    static void require_tiling(std::vector<Extent> extents, std::size_t data_size, const std::string& name) {
        std::sort(extents.begin(), extents.end());
        std::size_t covered = 0;
        for (const auto& [begin, end] : extents) {
            require(begin == covered, name, " has tensors that ", begin < covered ? "overlap" : "leave a gap",
                    " at byte ", begin, " of its data, expected the next to begin at ", covered);
            covered = end;
        }
        require(covered == data_size, name, " has ", data_size, " bytes of data, expected ", covered, " by its header");
    }

    Tensors tensors_;
};

}  // namespace mistral

#pragma once

#include <mistral/base/checksum.hpp>
#include <mistral/base/error.hpp>
#include <mistral/base/mapped_file.hpp>
#include <mistral/base/quote.hpp>
#include <mistral/base/replacement_file.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/base/types.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace mistral {

/// A file of matrices in the order in which a device reads them, so that they need only be mapped:
///
///   header      text that says which matrices of which source in which form, padded with zeros to 64 bytes
///   matrices    one after the other, each at a multiple of 64 bytes
///   checksum    8 bytes, little-endian: FNV-1a of the first and the last 4096 bytes of every matrix
///
/// Everything but matrices and checksum is known before the file is opened, and compared: nothing that a file says
/// about itself is ever believed. Another source or form, a changed header and another size are noticed, and so are
/// changes near the ends of a matrix, such as blocks that never reached the disk; others inside large matrices are
/// not, as little as in a checkpoint, for that would mean to read it all. They change weights, and nothing else.
class PackedFile {
  public:
    static constexpr std::size_t alignment = 64;

    /// One matrix, of a size that is a multiple of the alignment.
    struct Part {
        std::string name;
        std::size_t bytes = 0;
    };

    /// `form` is text that is another one for every source and every form of the matrices. Opens nothing.
    /// Throws Error where the path names no file.
    PackedFile(std::filesystem::path path, std::string_view form, std::vector<Part> parts)
        : path_(std::move(path)), parts_(std::move(parts)), header_(concat(mark, "version 1, little-endian\n", form)) {
        require(path_.has_filename(), quote(utf8(path_)), " is no path of a file of packed weights");
        for (const Part& part : parts_) header_ += concat(part.name, ", ", part.bytes, " bytes\n");
        header_.resize(round_up(header_.size(), alignment), '\0');
        size_ = header_.size();
        for (const Part& part : parts_) {
            assert(part.bytes % alignment == 0);
            offsets_.emplace(part.name, size_);
            size_ += part.bytes;
        }
        size_ += sizeof(std::uint64_t);
    }

    /// Maps the file. False where there is none, or it is damaged or of another source or form. Throws Error where
    /// something else stands in its place, which is better not replaced.
    [[nodiscard]] bool open() {
        std::error_code error;
        if (!std::filesystem::exists(path_, error)) return false;
        auto file = MappedFile::open(path_);
        require(begins_as_packed(file->bytes()), utf8(path_),
                " is no file of packed weights and is not replaced by one: delete it, or give another path");
        if (!is_current(file->bytes())) return false;
        file_ = std::move(file);
        return true;
    }

    /// Writes a file of the matrices that make(part) returns, one in memory at a time, and maps it. It takes the place
    /// of an older one when it is complete, as ReplacementFile says; those that have that one mapped keep it. Throws
    /// Error, which names the file, where it cannot be written, and what `make` throws; the path is what it was then.
    template <class Make>
    void write(Make&& make) {
        ReplacementFile out(path_);
        Checksum checksum;
        out.write(std::as_bytes(std::span(header_)));
        for (const Part& part : parts_) {
            const auto matrix = make(part);
            const auto& bytes = matrix.bytes();
            assert(bytes.size() == part.bytes);
            add_ends(bytes, checksum);
            out.write(bytes);
        }
        const std::array end{checksum.value()};
        out.write(std::as_bytes(std::span(end)));
        // Mapped before it gets the name, under which another process may put its own file at any time.
        auto file = MappedFile::open(out.complete());
        out.take_place();
        file_ = std::move(file);
    }

    /// The matrix of a part in the mapped file, which `owner()` keeps alive.
    [[nodiscard]] const std::byte* data(std::string_view name) const { return file_->bytes().data() + offset(name); }
    [[nodiscard]] std::shared_ptr<const void> owner() const { return file_; }

  private:
    static_assert(std::endian::native == std::endian::little, "packed files are little-endian");

    static constexpr std::string_view mark = "mistral packed weights\n";
    static constexpr std::size_t checked_ends = 4096;  // a page is read with its first byte

    /// Whether the file is a packed one, of whatever source, as far as it goes.
    static bool begins_as_packed(std::span<const std::byte> file) {
        return mark.starts_with(text(file).substr(0, mark.size()));
    }

    [[nodiscard]] bool is_current(std::span<const std::byte> file) const {
        if (file.size() != size_ || !text(file).starts_with(header_)) return false;
        Checksum checksum;
        for (const Part& part : parts_) add_ends(file.subspan(offset(part.name), part.bytes), checksum);
        std::uint64_t stored = 0;
        std::memcpy(&stored, file.last(sizeof(stored)).data(), sizeof(stored));
        return stored == checksum.value();
    }

    static std::string_view text(std::span<const std::byte> bytes) {
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }

    [[nodiscard]] std::size_t offset(std::string_view name) const {
        const auto found = offsets_.find(name);
        assert(found != offsets_.end());
        return found->second;
    }

    static void add_ends(std::span<const std::byte> matrix, Checksum& checksum) {
        checksum.add(matrix.first(std::min(matrix.size(), checked_ends)));
        checksum.add(matrix.last(std::min(matrix.size(), checked_ends)));
    }

    std::filesystem::path path_;
    std::vector<Part> parts_;
    std::string header_;
    std::map<std::string, std::size_t, std::less<>> offsets_;
    std::size_t size_ = 0;
    std::shared_ptr<const MappedFile> file_;
};

}  // namespace mistral

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/quote.hpp>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#if !defined(_WIN32)
#include <fcntl.h>
#include <unistd.h>
#endif

namespace mistral {

/// A file that is written beside a path and takes its place as a whole. Whoever opens the path finds what stood there
/// before, or all that was written here: whatever is thrown meanwhile, and however many write to it at once, of whom
/// the last stays. On POSIX systems that holds through a crash of the machine too, since the bytes are on the disk
/// before the path is theirs; on Windows they may not be, and a path that others have open is not replaced.
///
/// Unless it has taken the place, it is removed with this object; a process that is killed leaves PATH.*.part behind.
class ReplacementFile {
  public:
    /// Opens a new file beside `path`. Throws Error, as all members do with the path in the message, where it cannot be
    /// written, and where `path` is a directory, a device or a pipe, whose place no file should take.
    explicit ReplacementFile(std::filesystem::path path) : path_(std::move(path)), part_(path_) {
        std::error_code error;
        const auto status = std::filesystem::status(path_, error);
        require(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status), utf8(path_),
                " is not a regular file");
        std::random_device random;
        part_ += concat(".", random(), random(), ".part");  // no other writer's name
        out_.open(part_, std::ios::binary | std::ios::trunc);
        check(out_.is_open());
    }

    ~ReplacementFile() {
        out_.close();
        std::error_code ignored;
        std::filesystem::remove(part_, ignored);  // nothing, where it was renamed
    }
    ReplacementFile(const ReplacementFile&) = delete;
    ReplacementFile& operator=(const ReplacementFile&) = delete;

    /// What to write to, as long as it is not complete; `complete` notices what went wrong.
    [[nodiscard]] std::ostream& stream() { return out_; }

    /// Writes to it, and notices at once where that fails.
    void write(std::span<const std::byte> bytes) {
        out_.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        check(out_.good());
    }

    /// Brings all that was written to the disk. Returns where the file is until it takes the place, to be looked at.
    const std::filesystem::path& complete() {
        out_.close();
        check(out_.good());
        flush_to_disk();
        return part_;
    }

    /// Completes it, unless that is done, and gives it the path. A link is replaced, not what it leads to.
    void take_place() {
        if (out_.is_open()) complete();
        std::error_code error;
        std::filesystem::rename(part_, path_, error);
        require(!error, utf8(path_), " cannot be replaced: ", error.message());
    }

  private:
    /// `written` tells whether the last call went well; errno says why not.
    void check(bool written) const {
        require(written, utf8(path_),
                " cannot be written: ", std::error_code(errno, std::generic_category()).message());
    }

#if defined(_WIN32)
    void flush_to_disk() const {}
#else
    /// All of the file's bytes, whichever descriptor they were written through.
    void flush_to_disk() const {
        const int file = ::open(part_.c_str(), O_RDONLY | O_CLOEXEC);
        check(file >= 0);
        const int failure = ::fsync(file) == 0 ? 0 : errno;
        ::close(file);
        errno = failure;
        check(failure == 0);
    }
#endif

    std::filesystem::path path_;
    std::filesystem::path part_;
    std::ofstream out_;
};

}  // namespace mistral

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/quote.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <system_error>

#if defined(_WIN32)
#if !defined(NOMINMAX)
#define NOMINMAX
#endif
#if !defined(WIN32_LEAN_AND_MEAN)
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace mistral {

/// A regular file mapped for reading. Its size is fixed when it is opened; pages are read when they are first touched
/// and, being clean, cost no memory that the system could not take back. Whoever keeps the shared pointer keeps the
/// mapping.
///
/// While it is mapped the file must not be shortened or written to. On POSIX systems touching a page that a later
/// truncation took away is a SIGBUS, which a library cannot turn into an exception without taking over the program's
/// signal handlers; Windows refuses such changes. So replace a file by renaming another over it, which leaves the
/// mapping as it is. A file that was too short from the start is no such case: readers check sizes, none trusts a file.
class MappedFile {
  public:
    /// Follows links. Throws Error where `path` cannot be read, and where it is no regular file but a directory, a
    /// device or a pipe.
    [[nodiscard]] static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path) {
        std::error_code error;
        const auto status = std::filesystem::status(path, error);
        require(!error, utf8(path), " cannot be opened: ", error.message());
        require(std::filesystem::exists(status), utf8(path), " does not exist");  // no error to all libraries
        require(std::filesystem::is_regular_file(status), utf8(path), " is not a regular file");
        return std::shared_ptr<const MappedFile>(new MappedFile(path));
    }

    ~MappedFile() { unmap(bytes_); }
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

    /// The path that it was opened with, in UTF-8.
    [[nodiscard]] const std::string& name() const { return name_; }

  private:
    explicit MappedFile(const std::filesystem::path& path) : name_(utf8(path)), bytes_(map(path)) {}

#if defined(_WIN32)
    using Handle = std::unique_ptr<void, decltype(&::CloseHandle)>;

    [[noreturn]] static void fail_to_open(const std::filesystem::path& path) {
        const std::error_code error(static_cast<int>(::GetLastError()), std::system_category());
        fail(utf8(path), " cannot be mapped: ", error.message());
    }

    static std::span<const std::byte> map(const std::filesystem::path& path) {
        const HANDLE opened = ::CreateFileW(path.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr,
                                            OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
        if (opened == INVALID_HANDLE_VALUE) fail_to_open(path);
        const Handle file(opened, &::CloseHandle);
        require(::GetFileType(file.get()) == FILE_TYPE_DISK, utf8(path), " is not a regular file");
        LARGE_INTEGER size;
        if (!::GetFileSizeEx(file.get(), &size)) fail_to_open(path);
        if (size.QuadPart == 0) return {};
        require(static_cast<std::uint64_t>(size.QuadPart) <= SIZE_MAX, utf8(path), " is too large for this platform");
        const Handle mapping(::CreateFileMappingW(file.get(), nullptr, PAGE_READONLY, 0, 0, nullptr), &::CloseHandle);
        if (!mapping) fail_to_open(path);
        const void* memory = ::MapViewOfFile(mapping.get(), FILE_MAP_READ, 0, 0, 0);
        if (memory == nullptr) fail_to_open(path);
        return {static_cast<const std::byte*>(memory), static_cast<std::size_t>(size.QuadPart)};
    }

    static void unmap(std::span<const std::byte> bytes) {
        if (!bytes.empty()) ::UnmapViewOfFile(bytes.data());
    }
#else
    struct Descriptor {
        int number;
        ~Descriptor() {
            if (number >= 0) ::close(number);
        }
    };

    [[noreturn]] static void fail_to_open(const std::filesystem::path& path) {
        fail(utf8(path), " cannot be mapped: ", std::error_code(errno, std::generic_category()).message());
    }

    static std::span<const std::byte> map(const std::filesystem::path& path) {
        // Should the path have become a pipe or a terminal since it was looked at, opening it neither waits nor adopts
        // it.
        const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
        if (file.number < 0) fail_to_open(path);
        struct stat status {};
        if (::fstat(file.number, &status) != 0) fail_to_open(path);
        require(S_ISREG(status.st_mode), utf8(path), " is not a regular file");
        if (status.st_size == 0) return {};
        require(static_cast<std::uintmax_t>(status.st_size) <= SIZE_MAX, utf8(path), " is too large for this platform");
        const auto size = static_cast<std::size_t>(status.st_size);
        const void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
        if (memory == MAP_FAILED) fail_to_open(path);
        return {static_cast<const std::byte*>(memory), size};
    }

    static void unmap(std::span<const std::byte> bytes) {
        if (!bytes.empty()) ::munmap(const_cast<std::byte*>(bytes.data()), bytes.size());
    }
#endif

    std::string name_;
    std::span<const std::byte> bytes_;
};

}  // namespace mistral

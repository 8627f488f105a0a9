#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mistral {

/// The pages that a buffer asks the system for. Huge ones let large memory be read faster, as fewer translations of
/// addresses are needed, but are taken whole where one byte of them is written. A wish, which systems need not grant.
enum class Pages { standard, huge };

/// Uninitialised memory for `size` elements of T, aligned to a cache line and to every vector register.
/// Large buffers take physical memory only as they are first written.
template <class T>
requires std::is_trivially_copyable_v<T>
class AlignedBuffer {
  public:
    static constexpr std::size_t alignment = 64;

    AlignedBuffer() = default;

    /// Throws Error for a negative size, std::bad_alloc where the memory cannot be had.
    explicit AlignedBuffer(Index size, Pages pages = Pages::standard) : size_(size) {
        require(size >= 0, "a buffer of ", size, " elements was asked for, expected none or more");
        if (static_cast<std::size_t>(size) > static_cast<std::size_t>(PTRDIFF_MAX) / sizeof(T)) throw std::bad_alloc();
        const auto bytes = static_cast<std::size_t>(size) * sizeof(T);
        if (bytes == 0) return;
        const bool huge = pages == Pages::huge && bytes >= huge_page;
        const std::align_val_t aligned{huge ? huge_page : alignment};
        data_ = {static_cast<T*>(::operator new(bytes, aligned)), Free{aligned}};
#if defined(MADV_HUGEPAGE)
        if (huge) ::madvise(data_.get(), bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
    }

    [[nodiscard]] T* data() {
        return data_.get();
    }
    [[nodiscard]] const T* data() const {
        return data_.get();
    }
    [[nodiscard]] Index size() const {
        return size_;
    }
    [[nodiscard]] Index bytes() const {
        return size_ * static_cast<Index>(sizeof(T));
    }

  private:
    static constexpr std::size_t huge_page = std::size_t{1} << 21;

    struct Free {
        std::align_val_t aligned{alignment};
        void operator()(T* memory) const { ::operator delete(memory, aligned); }
    };

    std::unique_ptr<T, Free> data_;
    Index size_ = 0;
};

}  // namespace mistral

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

namespace mistral {

/// Uninitialised memory for `size` elements of T, aligned to a cache line and to every vector register.
/// Large buffers take physical memory only as they are first written.
template <class T>
requires std::is_trivially_copyable_v<T>
class AlignedBuffer {
  public:
    static constexpr std::size_t alignment = 64;

    AlignedBuffer() = default;

    /// Throws Error for a negative size, std::bad_alloc where the memory cannot be had.
    explicit AlignedBuffer(Index size) : size_(size) {
        require(size >= 0, "a buffer of ", size, " elements was asked for, expected none or more");
        if (static_cast<std::size_t>(size) > static_cast<std::size_t>(PTRDIFF_MAX) / sizeof(T)) throw std::bad_alloc();
        const auto bytes = static_cast<std::size_t>(size) * sizeof(T);
        if (bytes > 0) data_.reset(static_cast<T*>(::operator new (bytes, std::align_val_t{alignment})));
    }

    [[nodiscard]] T* data() { return data_.get(); }
    [[nodiscard]] const T* data() const { return data_.get(); }
    [[nodiscard]] Index size() const { return size_; }
    [[nodiscard]] Index bytes() const { return size_ * static_cast<Index>(sizeof(T)); }

  private:
    struct Free {
        void operator()(T* memory) const { ::operator delete (memory, std::align_val_t{alignment}); }
    };

    std::unique_ptr<T, Free> data_;
    Index size_ = 0;
};

}  // namespace mistral

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/cuda/check.hpp>
#include <mistral/device/cuda/gpu.hpp>

#include <cuda_runtime_api.h>

#include <cstddef>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>

namespace mistral {

/// Uninitialised memory of a GPU for `size` elements of T, at a multiple of 256 bytes. It must outlive all work on it.
template <class T>
requires std::is_trivially_copyable_v<T>
class DeviceBuffer {
  public:
    DeviceBuffer() = default;

    /// Any stream may use the memory. Throws Error where it cannot be had, and for a negative size.
    DeviceBuffer(std::shared_ptr<cuda::Gpu> gpu, Index size) : DeviceBuffer() {
        require(0 <= size && size <= std::numeric_limits<Index>::max() / static_cast<Index>(sizeof(T)), "a buffer of ",
                size, " elements was asked for, which no memory holds");
        gpu_ = std::move(gpu);
        size_ = size;
        if (size == 0) return;
        const cuda::CurrentGpu current(gpu_->ordinal());
        void* memory = nullptr;
        MISTRAL_CUDA(cudaMallocAsync(&memory, static_cast<std::size_t>(bytes()), gpu_->stream().get()));
        data_ = static_cast<T*>(memory);
        gpu_->stream().synchronize();
    }
    ~DeviceBuffer() {
        if (data_ != nullptr) static_cast<void>(cudaFreeAsync(data_, gpu_->stream().get()));
    }
    DeviceBuffer(DeviceBuffer&& other) noexcept
        : gpu_(std::move(other.gpu_)),
          data_(std::exchange(other.data_, nullptr)),
          size_(std::exchange(other.size_, 0)) {}
    DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
        std::swap(gpu_, other.gpu_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }

    [[nodiscard]] T* data() { return data_; }
    [[nodiscard]] const T* data() const { return data_; }
    [[nodiscard]] Index size() const { return size_; }
    [[nodiscard]] Index bytes() const { return size_ * static_cast<Index>(sizeof(T)); }

  private:
    std::shared_ptr<cuda::Gpu> gpu_;
    T* data_ = nullptr;
    Index size_ = 0;
};

}  // namespace mistral

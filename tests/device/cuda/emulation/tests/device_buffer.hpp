#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

/// Values in the emulated device's memory, while it lives.
template <class T>
class DeviceBuffer {
  public:
    explicit DeviceBuffer(std::size_t size) : size_(size) { cudaMalloc(&data_, size * sizeof(T)); }
    explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
        cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice);
    }
    ~DeviceBuffer() { cudaFree(data_); }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;

    [[nodiscard]] T* data() const { return data_; }
    [[nodiscard]] std::vector<T> values() const {
        std::vector<T> values(size_);
        cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost);
        return values;
    }

  private:
    T* data_ = nullptr;
    std::size_t size_;
};

#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/types.hpp>

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

/// Where a matrix lies in the device's memory: so many elements after an aligned address, with so many between rows.
struct Layout {
    mistral::Index offset = 0;
    mistral::Index gap = 0;
};

/// Aligned rows without and with gaps, rows of which only the first is aligned, and rows of which few are.
inline constexpr std::array<Layout, 4> layouts{{{0, 0}, {16, 32}, {0, 1}, {3, 5}}};

/// A matrix in the emulated device's memory, whose other bytes are 255, which in numbers are NaN.
template <class T>
class DeviceMatrix {
  public:
    DeviceMatrix(mistral::Index rows, mistral::Index cols, Layout layout = {})
        : rows_(rows), cols_(cols), layout_(layout), host_(static_cast<std::size_t>(elements())) {
        std::memset(static_cast<void*>(host_.data()), 0xff, bytes());
        cudaMalloc(&data_, bytes());
        upload();
    }
    template <class Value>
    DeviceMatrix(mistral::Index rows, mistral::Index cols, Layout layout, const Value& value)
        : DeviceMatrix(rows, cols, layout) {
        for (mistral::Index i = 0; i < rows; ++i)
            for (mistral::Index j = 0; j < cols; ++j) host_view()(i, j) = static_cast<T>(value(i, j));
        upload();
    }
    ~DeviceMatrix() { cudaFree(data_); }
    DeviceMatrix(const DeviceMatrix&) = delete;
    DeviceMatrix& operator=(const DeviceMatrix&) = delete;

    [[nodiscard]] mistral::MatrixView<T> view() const {
        return {data_ + layout_.offset, rows_, cols_, cols_ + layout_.gap};
    }
    [[nodiscard]] mistral::MatrixView<const T> const_view() const { return view(); }

    /// What was written by the host, or downloaded last.
    [[nodiscard]] const T& operator()(mistral::Index i, mistral::Index j) const {
        return host_[static_cast<std::size_t>(layout_.offset + i * (cols_ + layout_.gap) + j)];
    }

    /// Fetches what the device has written, and tells whether nothing has changed around the matrix.
    [[nodiscard]] bool download() {
        const std::vector<T> before = host_;
        cudaMemcpy(host_.data(), data_, bytes(), cudaMemcpyDeviceToHost);
        std::vector<T> around = host_;
        for (mistral::Index i = 0; i < rows_; ++i)
            for (mistral::Index j = 0; j < cols_; ++j) {
                const auto at = static_cast<std::size_t>(layout_.offset + i * (cols_ + layout_.gap) + j);
                around[at] = before[at];
            }
        return std::memcmp(around.data(), before.data(), bytes()) == 0;
    }

    /// Whether both hold the same bits.
    [[nodiscard]] bool same_bits(const DeviceMatrix& other) const {
        for (mistral::Index i = 0; i < rows_; ++i)
            for (mistral::Index j = 0; j < cols_; ++j)
                if (std::memcmp(&(*this)(i, j), &other(i, j), sizeof(T)) != 0) return false;
        return true;
    }

  private:
    [[nodiscard]] mistral::Index elements() const { return layout_.offset + rows_ * (cols_ + layout_.gap) + 3; }
    [[nodiscard]] std::size_t bytes() const { return static_cast<std::size_t>(elements()) * sizeof(T); }
    [[nodiscard]] mistral::MatrixView<T> host_view() {
        return {host_.data() + layout_.offset, rows_, cols_, cols_ + layout_.gap};
    }
    void upload() { cudaMemcpy(data_, host_.data(), bytes(), cudaMemcpyHostToDevice); }

    mistral::Index rows_;
    mistral::Index cols_;
    Layout layout_;
    std::vector<T> host_;
    T* data_ = nullptr;
};

/// Numbers of a normal distribution, for the elements of a matrix.
class NormalNumbers {
  public:
    explicit NormalNumbers(unsigned seed, float deviation = 1) : random_(seed), normal_(0, deviation) {}
    float operator()(mistral::Index = 0, mistral::Index = 0) const { return normal_(random_); }

  private:
    mutable std::mt19937 random_;
    mutable std::normal_distribution<float> normal_;
};

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/device/cuda/check.hpp>
#include <mistral/device/cuda/matrix_product.hpp>
#include <mistral/device/cuda/pinned_upload.hpp>

#include <cuda_runtime_api.h>

#include <utility>

namespace mistral::cuda {

/// Makes a GPU the calling thread's current one, which most of CUDA's functions speak of, and the former one again when
/// it goes.
class CurrentGpu {
  public:
    explicit CurrentGpu(int ordinal) {
        MISTRAL_CUDA(cudaGetDevice(&former_));
        is_other_ = former_ != ordinal;
        if (is_other_) MISTRAL_CUDA(cudaSetDevice(ordinal));
    }
    ~CurrentGpu() {
        if (is_other_) static_cast<void>(cudaSetDevice(former_));
    }
    CurrentGpu(const CurrentGpu&) = delete;
    CurrentGpu& operator=(const CurrentGpu&) = delete;

  private:
    int former_ = 0;
    bool is_other_ = false;
};

/// A stream of work, which is done in order. It takes part in no other stream's order.
class Stream {
  public:
    /// On the current GPU.
    Stream() { MISTRAL_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
    /// Waits for its work, as what that works on may go next.
    ~Stream() {
        if (stream_ == nullptr) return;
        static_cast<void>(cudaStreamSynchronize(stream_));
        static_cast<void>(cudaStreamDestroy(stream_));
    }
    Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
    Stream& operator=(Stream&& other) noexcept {
        std::swap(stream_, other.stream_);
        return *this;
    }

    [[nodiscard]] cudaStream_t get() const { return stream_; }
    void synchronize() const { MISTRAL_CUDA(cudaStreamSynchronize(stream_)); }

  private:
    cudaStream_t stream_ = nullptr;
};

/// One GPU as all that use it share it: a stream for memory, a way into that memory, and the products of many tokens.
class Gpu {
  public:
    /// The GPU of that ordinal, as CUDA counts them. Throws Error where there is none, or one that is too old.
    explicit Gpu(int ordinal) : Gpu(CurrentGpu(checked(ordinal)), ordinal) {}

    [[nodiscard]] int ordinal() const { return ordinal_; }
    [[nodiscard]] const Stream& stream() const { return stream_; }
    [[nodiscard]] PinnedUpload& upload() { return upload_; }
    [[nodiscard]] MatrixProduct& product() { return product_; }

  private:
    Gpu(const CurrentGpu&, int ordinal) : ordinal_(ordinal) {}

    static int checked(int ordinal) {
        int count = 0;
        const cudaError_t status = cudaGetDeviceCount(&count);
        require(status == cudaSuccess, "there is no GPU to be had: ", cudaGetErrorString(status));
        require(0 <= ordinal && ordinal < count, "GPU ", ordinal, " was asked for, but there are ", count,
                ", counted from 0");
        int major = 0;
        MISTRAL_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
        require(major >= 8, "GPU ", ordinal, " has compute capability ", major, ", expected 8 (Ampere) or newer");
        return ordinal;
    }

    int ordinal_;
    Stream stream_;
    PinnedUpload upload_;
    MatrixProduct product_;
};

}  // namespace mistral::cuda

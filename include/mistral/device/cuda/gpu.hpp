#pragma once

#include <mistral/base/error.hpp>
#include <mistral/device/cuda/check.hpp>
#include <mistral/device/cuda/matrix_product.hpp>
#include <mistral/device/cuda/owned.hpp>
#include <mistral/device/cuda/pinned_upload.hpp>

#include <cuda_runtime_api.h>

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
    Stream() {
        cudaStream_t stream = nullptr;
        MISTRAL_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        stream_.reset(stream);
    }

    [[nodiscard]] cudaStream_t get() const { return stream_.get(); }
    void synchronize() const { MISTRAL_CUDA(cudaStreamSynchronize(get())); }

  private:
    /// Waits first, as what the stream works on may go next.
    static cudaError_t finish_and_destroy(cudaStream_t stream) {
        static_cast<void>(cudaStreamSynchronize(stream));
        return cudaStreamDestroy(stream);
    }

    Owned<cudaStream_t, finish_and_destroy> stream_;
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

#pragma once

#include <mistral/base/types.hpp>
#include <mistral/device/cuda/check.hpp>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <mutex>

namespace mistral::cuda {

/// Brings large memory of the host to the GPU: through two buffers that the GPU reads by itself, one being filled, from
/// a mapped file for example, while the other is on its way.
class PinnedUpload {
  public:
    PinnedUpload() = default;
    ~PinnedUpload() {
        for (Buffer& buffer : buffers_) {
            if (buffer.memory != nullptr) static_cast<void>(cudaFreeHost(buffer.memory));
            if (buffer.sent != nullptr) static_cast<void>(cudaEventDestroy(buffer.sent));
        }
    }
    PinnedUpload(const PinnedUpload&) = delete;
    PinnedUpload& operator=(const PinnedUpload&) = delete;

    /// Puts copies of `bytes` bytes on the stream, and returns once `from` has been read. One thread at a time.
    void copy(const std::byte* from, std::byte* to, std::size_t bytes, cudaStream_t stream) {
        const std::scoped_lock lock(mutex_);
        for (std::size_t done = 0; done < bytes; turn_ = 1 - turn_) {
            Buffer& buffer = ready(turn_);
            const std::size_t count = std::min(buffer_bytes, bytes - done);
            std::memcpy(buffer.memory, from + done, count);
            MISTRAL_CUDA(cudaMemcpyAsync(to + done, buffer.memory, count, cudaMemcpyHostToDevice, stream));
            MISTRAL_CUDA(cudaEventRecord(buffer.sent, stream));
            done += count;
        }
    }

  private:
    static constexpr std::size_t buffer_bytes = std::size_t{16} << 20;

    struct Buffer {
        std::byte* memory = nullptr;
        cudaEvent_t sent = nullptr;
    };

    /// The buffer once what it held has been sent. They are made when they are first needed.
    Buffer& ready(std::size_t i) {
        Buffer& buffer = buffers_[i];
        if (buffer.sent == nullptr)
            MISTRAL_CUDA(cudaEventCreateWithFlags(&buffer.sent, cudaEventDisableTiming));
        else
            MISTRAL_CUDA(cudaEventSynchronize(buffer.sent));
        if (buffer.memory == nullptr)
            MISTRAL_CUDA(cudaMallocHost(reinterpret_cast<void**>(&buffer.memory), buffer_bytes));
        return buffer;
    }

    std::mutex mutex_;
    std::array<Buffer, 2> buffers_;
    std::size_t turn_ = 0;
};

}  // namespace mistral::cuda

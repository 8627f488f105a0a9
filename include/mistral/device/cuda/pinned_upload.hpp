#pragma once

#include <mistral/base/types.hpp>
#include <mistral/device/cuda/check.hpp>
#include <mistral/device/cuda/owned.hpp>

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
    /// Puts copies of `bytes` bytes on the stream, and returns once `from` has been read. One thread at a time.
    void copy(const std::byte* from, std::byte* to, std::size_t bytes, cudaStream_t stream) {
        const std::scoped_lock lock(mutex_);
        for (std::size_t done = 0; done < bytes; turn_ = 1 - turn_) {
            Buffer& buffer = ready(turn_);
            const std::size_t count = std::min(buffer_bytes, bytes - done);
            std::memcpy(buffer.memory.get(), from + done, count);
            MISTRAL_CUDA(cudaMemcpyAsync(to + done, buffer.memory.get(), count, cudaMemcpyHostToDevice, stream));
            MISTRAL_CUDA(cudaEventRecord(buffer.sent.get(), stream));
            done += count;
        }
    }

  private:
    static constexpr std::size_t buffer_bytes = std::size_t{16} << 20;

    struct Buffer {
        Owned<std::byte*, cudaFreeHost> memory;
        Owned<cudaEvent_t, cudaEventDestroy> sent;
    };

    /// The buffer once what it held has been sent. They are made when they are first needed.
    Buffer& ready(std::size_t i) {
        Buffer& buffer = buffers_[i];
        if (buffer.sent == nullptr) {
            cudaEvent_t event = nullptr;
            MISTRAL_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
            buffer.sent.reset(event);
        }
        MISTRAL_CUDA(cudaEventSynchronize(buffer.sent.get()));
        if (buffer.memory == nullptr) {
            void* memory = nullptr;
            MISTRAL_CUDA(cudaMallocHost(&memory, buffer_bytes));
            buffer.memory.reset(static_cast<std::byte*>(memory));
        }
        return buffer;
    }

    std::mutex mutex_;
    std::array<Buffer, 2> buffers_;
    std::size_t turn_ = 0;
};

}  // namespace mistral::cuda

#pragma once

#include <mistral/base/types.hpp>
#include <mistral/base/workspace.hpp>
#include <mistral/device/cuda/check.hpp>
#include <mistral/device/cuda/device_buffer.hpp>
#include <mistral/device/cuda/gpu.hpp>
#include <mistral/device/cuda/recorded_pass.hpp>
#include <mistral/device/device.hpp>

#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>

namespace mistral {

/// What one sequence needs to compute on a GPU: a stream, scratch memory, its position where kernels read it, and the
/// passes of one token that were recorded.
class CudaWorkspace {
  public:
    explicit CudaWorkspace(std::shared_ptr<cuda::Gpu> gpu) : CudaWorkspace(gpu, cuda::CurrentGpu(gpu->ordinal())) {}

    [[nodiscard]] auto frame() { return scratch_.frame(); }
    /// Scratch memory held, in bytes.
    [[nodiscard]] Index bytes() const { return scratch_.bytes(); }

    [[nodiscard]] cudaStream_t stream() const { return stream_.get(); }

    /// Where kernels find the position, which is brought there where it is another one than before.
    [[nodiscard]] const Index* position(Index position) {
        if (position != position_) {
            MISTRAL_CUDA(cudaMemcpyAsync(position_memory_.data(), &position, sizeof(position), cudaMemcpyHostToDevice,
                                         stream()));
            position_ = position;
        }
        return position_memory_.data();
    }

    /// As Device says. The first pass of its kind is only performed, and scratch memory grows as it needs; the second
    /// is recorded too; the others are what was recorded.
    template <class Body>
    bool perform(const Pass& pass, Body&& body) {
        static_cast<void>(position(pass.position));
        const Kind kind{pass.model, pass.tokens, pass.logits};
        const auto found = passes_.find(kind);
        if (found == passes_.end()) {
            body();
            passes_.try_emplace(kind);
            return true;
        }
        cuda::RecordedPass& recorded = found->second;
        const bool is_new = !recorded;
        if (is_new) recorded = cuda::RecordedPass(stream(), body);
        recorded.run(stream());
        return is_new;
    }

    /// Waits until all is done.
    void finish() const { stream_.synchronize(); }

  private:
    struct Allocate {
        std::shared_ptr<cuda::Gpu> gpu;
        DeviceBuffer<std::byte> operator()(Index size) const { return {gpu, size}; }
    };
    /// The model, the tokens and the logits of a pass. What holds the model's pointer keeps it from naming another.
    using Kind = std::tuple<std::shared_ptr<const void>, Index, Index>;

    CudaWorkspace(const std::shared_ptr<cuda::Gpu>& gpu, const cuda::CurrentGpu&)
        : scratch_(Allocate{gpu}), position_memory_(gpu, 1) {}

    BasicWorkspace<DeviceBuffer<std::byte>, Allocate> scratch_;
    DeviceBuffer<Index> position_memory_;
    std::optional<Index> position_;
    std::map<Kind, cuda::RecordedPass> passes_;  // of kinds that were performed, recorded or not yet
    cuda::Stream stream_;                        // the last, so that it waits before anything else goes
};

}  // namespace mistral

#pragma once

#include <mistral/device/cuda/check.hpp>
#include <mistral/device/cuda/owned.hpp>

#include <cuda_runtime_api.h>

namespace mistral::cuda {

/// What a stream was asked for in one pass, to be asked for at once from then on: a CUDA graph.
class RecordedPass {
  public:
    RecordedPass() = default;

    /// Records what body() puts on the stream, none of which runs yet. Throws what the body throws, and Error.
    template <class Body>
    RecordedPass(cudaStream_t stream, Body&& body) {
        // Of this thread: others may allocate meanwhile.
        MISTRAL_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        try {
            body();
        } catch (...) {
            cudaGraph_t dropped = nullptr;
            static_cast<void>(cudaStreamEndCapture(stream, &dropped));
            static_cast<void>(Graph(dropped));
            throw;
        }
        cudaGraph_t ended = nullptr;
        MISTRAL_CUDA(cudaStreamEndCapture(stream, &ended));
        const Graph graph(ended);
        cudaGraphExec_t instance = nullptr;
        MISTRAL_CUDA(cudaGraphInstantiate(&instance, graph.get(), 0));
        instance_.reset(instance);
    }

    [[nodiscard]] explicit operator bool() const { return instance_ != nullptr; }

    void run(cudaStream_t stream) const { MISTRAL_CUDA(cudaGraphLaunch(instance_.get(), stream)); }

  private:
    using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;

    Owned<cudaGraphExec_t, cudaGraphExecDestroy> instance_;
};

}  // namespace mistral::cuda

#pragma once

#include <mistral/device/cuda/check.hpp>

#include <cuda_runtime_api.h>

#include <utility>

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
        cudaGraph_t graph = nullptr;
        try {
            body();
        } catch (...) {
            if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) static_cast<void>(cudaGraphDestroy(graph));
            throw;
        }
        MISTRAL_CUDA(cudaStreamEndCapture(stream, &graph));
        const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
        static_cast<void>(cudaGraphDestroy(graph));
        check(status, "cudaGraphInstantiate", __FILE__, __LINE__);
    }
    ~RecordedPass() {
        if (graph_ != nullptr) static_cast<void>(cudaGraphExecDestroy(graph_));
    }
    RecordedPass(RecordedPass&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
    RecordedPass& operator=(RecordedPass&& other) noexcept {
        std::swap(graph_, other.graph_);
        return *this;
    }

    [[nodiscard]] explicit operator bool() const { return graph_ != nullptr; }

    void run(cudaStream_t stream) const { MISTRAL_CUDA(cudaGraphLaunch(graph_, stream)); }

  private:
    cudaGraphExec_t graph_ = nullptr;
};

}  // namespace mistral::cuda

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/cuda/check.hpp>
#include <mistral/device/cuda/cublas.hpp>
#include <mistral/device/cuda/cublas_matmul.hpp>
#include <mistral/device/cuda/owned.hpp>
#include <mistral/device/device.hpp>

#include <cuda_runtime_api.h>

#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>

namespace mistral::cuda {

/// Products of many tokens with weights, by cuBLASLt. One for each device, shared by all threads.
///
/// The first product of its kind times cuBLASLt's algorithms on its own operands, into memory of its own, and waits for
/// the stream meanwhile, as products of other threads wait for it. The others take the fastest one. It may be another
/// one when the program runs again, and with it the order in which products are summed.
class MatrixProduct {
  public:
    /// On the current device.
    MatrixProduct() : handle_(create_handle()) {}

    /// Bytes of scratch memory that `run` may use, from an address on that 16 divides.
    static constexpr Index scratch_bytes = Index{32} << 20;

    /// x [tokens, inputs], weights [outputs, inputs] -> out [tokens, outputs] = or += x weightsᵀ, for S = float, half,
    /// bfloat16, one or more of each, all in the device's memory. Products are summed in float. While the stream
    /// captures, nothing is timed, and what cuBLASLt holds for the fastest algorithm is taken where none is known.
    /// Throws Error where a call of CUDA's or cuBLASLt's fails, or cuBLASLt has no algorithm for the product.
    template <MatmulScalar S>
    void run(cudaStream_t stream, MatrixView<const S> x, MatrixView<const S> weights, MatrixView<float> out,
             Update update, std::byte* scratch) {
        assert(x.rows() > 0 && x.cols() > 0 && weights.rows() > 0);
        assert(x.cols() == weights.cols() && out.rows() == x.rows() && out.cols() == weights.rows());
        const MatmulProblem problem{.scalar = data_type<S>,
                                    .update = update,
                                    .tokens = x.rows(),
                                    .inputs = x.cols(),
                                    .outputs = out.cols(),
                                    .x_stride = x.stride(),
                                    .weights_stride = weights.stride(),
                                    .out_stride = out.stride(),
                                    .x_alignment = alignment_of(x.data()),
                                    .weights_alignment = alignment_of(weights.data()),
                                    .out_alignment = alignment_of(out.data())};
        const Matmul matmul(handle_.get(), problem);
        const Call call{stream, x.data(), weights.data(), scratch};
        launch(matmul, call, algorithm(matmul, call), out.data());
    }

  private:
    using Handle = Owned<cublasLtHandle_t, cublasLtDestroy>;
    using Event = Owned<cudaEvent_t, cudaEventDestroy>;

    /// What is the same for all algorithms.
    struct Call {
        cudaStream_t stream;
        const void* x;
        const void* weights;
        std::byte* scratch;
    };

    static Handle create_handle() {
        cublasLtHandle_t handle = nullptr;
        MISTRAL_CUBLAS(cublasLtCreate(&handle));
        return Handle(handle);
    }

    static Event create_event() {
        cudaEvent_t event = nullptr;
        MISTRAL_CUDA(cudaEventCreate(&event));
        return Event(event);
    }

    static void launch(const Matmul& matmul, const Call& call, const cublasLtMatmulAlgo_t& algorithm, float* out) {
        matmul.launch(call.stream, algorithm, call.x, call.weights, out, call.scratch, scratch_bytes);
    }

    /// Lengths up to the next power of two share what was found for the first of them: chunks of any length cost few
    /// searches. What does not suit a length among them gives way to cuBLASLt's own choice.
    cublasLtMatmulAlgo_t algorithm(const Matmul& matmul, const Call& call) {
        MatmulProblem key = matmul.problem();
        key.tokens = static_cast<Index>(std::bit_ceil(static_cast<std::uint64_t>(key.tokens)));
        const std::lock_guard lock(mutex_);  // also while one is searched for: others would search for the same
        auto known = fastest_.find(key);
        if (known == fastest_.end() && !is_capturing(call.stream))
            known = fastest_.emplace(key, fastest(matmul, call)).first;
        if (known != fastest_.end() && matmul.supports(known->second, scratch_bytes)) return known->second;
        return matmul.algorithms(1, scratch_bytes).front();
    }

    static bool is_capturing(cudaStream_t stream) {
        cudaStreamCaptureStatus status{};
        MISTRAL_CUDA(cudaStreamIsCapturing(stream, &status));
        return status != cudaStreamCaptureStatusNone;
    }

    static cublasLtMatmulAlgo_t fastest(const Matmul& matmul, const Call& call) {
        const auto candidates = matmul.algorithms(8, scratch_bytes);
        const auto out = temporary(matmul.problem(), call.stream);
        const Event start = create_event();
        const Event stop = create_event();
        cublasLtMatmulAlgo_t fastest{};
        float shortest = std::numeric_limits<float>::infinity();
        for (const cublasLtMatmulAlgo_t& algorithm : candidates) {
            const float time = milliseconds(matmul, call, algorithm, out.get(), start.get(), stop.get());
            if (time >= shortest) continue;
            shortest = time;
            fastest = algorithm;
        }
        return fastest;
    }

    static float milliseconds(const Matmul& matmul, const Call& call, const cublasLtMatmulAlgo_t& algorithm, float* out,
                              cudaEvent_t start, cudaEvent_t stop) {
        constexpr int repetitions = 3;
        launch(matmul, call, algorithm, out);  // which also brings the kernel to the device
        MISTRAL_CUDA(cudaEventRecord(start, call.stream));
        for (int i = 0; i < repetitions; ++i) launch(matmul, call, algorithm, out);
        MISTRAL_CUDA(cudaEventRecord(stop, call.stream));
        MISTRAL_CUDA(cudaEventSynchronize(stop));
        float time = 0;
        MISTRAL_CUDA(cudaEventElapsedTime(&time, start, stop));
        return time;
    }

    struct FreeOnStream {
        cudaStream_t stream;
        void operator()(float* memory) const { cudaFreeAsync(memory, stream); }
    };

    /// Zeros in the place of a product's results, which must not change before an algorithm is chosen: to `add` twice
    /// is to add too much.
    static std::unique_ptr<float, FreeOnStream> temporary(const MatmulProblem& problem, cudaStream_t stream) {
        const auto bytes =
            static_cast<std::size_t>((problem.tokens - 1) * problem.out_stride + problem.outputs) * sizeof(float);
        void* memory = nullptr;
        MISTRAL_CUDA(cudaMallocAsync(&memory, bytes, stream));
        std::unique_ptr<float, FreeOnStream> owned(static_cast<float*>(memory), FreeOnStream{stream});
        MISTRAL_CUDA(cudaMemsetAsync(memory, 0, bytes, stream));
        return owned;
    }

    Handle handle_;
    std::mutex mutex_;
    std::map<MatmulProblem, cublasLtMatmulAlgo_t> fastest_;
};

}  // namespace mistral::cuda

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/cuda/cublas.hpp>
#include <mistral/device/cuda/owned.hpp>
#include <mistral/device/device.hpp>
#include <mistral/scalar/types.hpp>

#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace mistral::cuda {

/// The element types of operands.
template <class T>
concept MatmulScalar = std::same_as<T, float> || std::same_as<T, half> || std::same_as<T, bfloat16>;

/// The name that CUDA's libraries have for a type.
template <MatmulScalar S>
inline constexpr cudaDataType_t data_type = std::same_as<S, float>  ? CUDA_R_32F
                                            : std::same_as<S, half> ? CUDA_R_16F
                                                                    : CUDA_R_16BF;

/// The largest power of two that divides an address, up to what cuBLASLt asks for.
[[nodiscard]] inline std::uint32_t alignment_of(const void* pointer) {
    const auto address = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(pointer)) | 256;
    return static_cast<std::uint32_t>(address & (~address + 1));
}

/// All that an algorithm is chosen by: out [tokens, outputs] = or += x [tokens, inputs] weights [outputs, inputs]ᵀ, of
/// rows that lie `stride` elements apart, from addresses on that are so many bytes aligned.
struct MatmulProblem {
    cudaDataType_t scalar;  ///< of x and the weights
    Update update;
    Index tokens;
    Index inputs;
    Index outputs;
    Index x_stride;
    Index weights_stride;
    Index out_stride;
    std::uint32_t x_alignment;
    std::uint32_t weights_alignment;
    std::uint32_t out_alignment;

    auto operator<=>(const MatmulProblem&) const = default;
};

/// One product in the terms of cuBLASLt. Its matrices are column-major, so that it sees the transposes of ours: outᵀ =
/// weights xᵀ, where what it sees of the weights is to be transposed.
class Matmul {
  public:
    Matmul(cublasLtHandle_t handle, const MatmulProblem& problem)
        : handle_(handle),
          problem_(problem),
          operation_(create_operation()),
          x_(create_layout(problem.scalar, problem.tokens, problem.inputs, problem.x_stride)),
          weights_(create_layout(problem.scalar, problem.outputs, problem.inputs, problem.weights_stride)),
          out_(create_layout(CUDA_R_32F, problem.tokens, problem.outputs, problem.out_stride)) {}

    [[nodiscard]] const MatmulProblem& problem() const { return problem_; }

    /// Up to `count` algorithms that need no more scratch memory, in the order of the speed that cuBLASLt expects.
    /// There is one at least, otherwise Error is thrown.
    [[nodiscard]] std::vector<cublasLtMatmulAlgo_t> algorithms(int count, Index scratch_bytes) const {
        const Preference preference = create_preference(scratch_bytes);
        std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(count));
        int found = 0;
        const cublasStatus_t status =
            cublasLtMatmulAlgoGetHeuristic(handle_, operation_.get(), weights_.get(), x_.get(), out_.get(), out_.get(),
                                           preference.get(), count, results.data(), &found);
        if (status != CUBLAS_STATUS_NOT_SUPPORTED)  // with which it finds none
            check(status, "cublasLtMatmulAlgoGetHeuristic", __FILE__, __LINE__);
        std::vector<cublasLtMatmulAlgo_t> algorithms;
        for (const auto& result : std::span(results).first(static_cast<std::size_t>(found)))
            if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
        if (algorithms.empty()) fail_without_algorithm();
        return algorithms;
    }

    /// Whether an algorithm that was found for another number of tokens takes this one.
    [[nodiscard]] bool supports(const cublasLtMatmulAlgo_t& algorithm, Index scratch_bytes) const {
        cublasLtMatmulHeuristicResult_t result{};
        const cublasStatus_t status = cublasLtMatmulAlgoCheck(handle_, operation_.get(), weights_.get(), x_.get(),
                                                              out_.get(), out_.get(), &algorithm, &result);
        return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= static_cast<std::size_t>(scratch_bytes);
    }

    void launch(cudaStream_t stream, const cublasLtMatmulAlgo_t& algorithm, const void* x, const void* weights,
                float* out, std::byte* scratch, Index scratch_bytes) const {
        const float one = 1;
        const float beta = problem_.update == Update::add ? 1 : 0;
        MISTRAL_CUBLAS(cublasLtMatmul(handle_, operation_.get(), &one, weights, weights_.get(), x, x_.get(), &beta, out,
                                      out_.get(), out, out_.get(), &algorithm, scratch,
                                      static_cast<std::size_t>(scratch_bytes), stream));
    }

  private:
    using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
    using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
    using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

    /// In float throughout: CUBLAS_COMPUTE_32F rounds no operand to TF32.
    static Operation create_operation() {
        cublasLtMatmulDesc_t created = nullptr;
        MISTRAL_CUBLAS(cublasLtMatmulDescCreate(&created, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        Operation operation(created);
        const cublasOperation_t transposed = CUBLAS_OP_T;
        MISTRAL_CUBLAS(
            cublasLtMatmulDescSetAttribute(created, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)));
        return operation;
    }

    /// Of a row-major matrix [rows, cols].
    static Layout create_layout(cudaDataType_t type, Index rows, Index cols, Index stride) {
        cublasLtMatrixLayout_t layout = nullptr;
        MISTRAL_CUBLAS(cublasLtMatrixLayoutCreate(&layout, type, static_cast<std::uint64_t>(cols),
                                                  static_cast<std::uint64_t>(rows), stride));
        return Layout(layout);
    }

    [[nodiscard]] Preference create_preference(Index scratch_bytes) const {
        cublasLtMatmulPreference_t created = nullptr;
        MISTRAL_CUBLAS(cublasLtMatmulPreferenceCreate(&created));
        Preference preference(created);
        const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
            MISTRAL_CUBLAS(cublasLtMatmulPreferenceSetAttribute(created, attribute, &value, sizeof(value)));
        };
        set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(scratch_bytes));
        set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, problem_.weights_alignment);
        set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, problem_.x_alignment);
        set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, problem_.out_alignment);
        set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, problem_.out_alignment);
        return preference;
    }

    [[noreturn]] void fail_without_algorithm() const {
        const MatmulProblem& p = problem_;
        const std::string_view scalar = p.scalar == CUDA_R_32F ? "float" : p.scalar == CUDA_R_16F ? "half" : "bfloat16";
        fail("cuBLASLt has no algorithm for the product of x [", p.tokens, ", ", p.inputs, "] and weights [", p.outputs,
             ", ", p.inputs, "] of ", scalar, " with strides of ", p.x_stride, ", ", p.weights_stride, " and, of out, ",
             p.out_stride, ", aligned to ", p.x_alignment, ", ", p.weights_alignment, " and ", p.out_alignment,
             " bytes");
    }

    cublasLtHandle_t handle_;
    MatmulProblem problem_;
    Operation operation_;
    Layout x_;
    Layout weights_;
    Layout out_;
};

}  // namespace mistral::cuda

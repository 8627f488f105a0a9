#include "device_buffer.hpp"
#include "emulation.hpp"

#include <cublasLt.h>
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

// Matrix products of cuBLASLt's, and the clock of events by which they are timed.

namespace {

/// D [2, 4] = Aᵀ B, of A [8, 2] and B [8, 4], all column-major, of ones.
struct Matmul {
    cublasLtHandle_t handle = nullptr;
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
    cublasLtMatmulPreference_t preference = nullptr;
    DeviceBuffer<float> a_values{std::vector<float>(17, 1)};
    DeviceBuffer<float> b_values{std::vector<float>(32, 1)};
    DeviceBuffer<float> d_values{8};
    DeviceBuffer<std::byte> workspace{std::size_t{8} << 20};
    const float* a_data = a_values.data();
    const void* alpha = &one;
    std::size_t workspace_bytes = std::size_t{8} << 20;
    static constexpr float one = 1, zero = 0;

    explicit Matmul(cublasComputeType_t compute = CUBLAS_COMPUTE_32F, cudaDataType_t b_type = CUDA_R_32F,
                    std::uint64_t b_rows = 8, std::int64_t a_stride = 8) {
        CHECK(cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS);
        CHECK(cublasLtMatmulDescCreate(&operation, compute, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
        CHECK(cublasLtMatrixLayoutCreate(&a, CUDA_R_32F, 8, 2, a_stride) == CUBLAS_STATUS_SUCCESS);
        CHECK(cublasLtMatrixLayoutCreate(&b, b_type, b_rows, 4, 8) == CUBLAS_STATUS_SUCCESS);
        CHECK(cublasLtMatrixLayoutCreate(&d, CUDA_R_32F, 2, 4, 2) == CUBLAS_STATUS_SUCCESS);
        CHECK(cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS);
        const cublasOperation_t transposed = CUBLAS_OP_T;
        CHECK(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) ==
              CUBLAS_STATUS_SUCCESS);
    }
    ~Matmul() {
        cublasLtMatmulPreferenceDestroy(preference);
        for (auto* layout : {a, b, d}) cublasLtMatrixLayoutDestroy(layout);
        cublasLtMatmulDescDestroy(operation);
        cublasLtDestroy(handle);
    }
    Matmul(const Matmul&) = delete;
    Matmul& operator=(const Matmul&) = delete;

    template <class T>
    cublasStatus_t prefer(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
        return cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
    }

    std::vector<cublasLtMatmulHeuristicResult_t> algorithms(cublasStatus_t expected = CUBLAS_STATUS_SUCCESS) {
        std::vector<cublasLtMatmulHeuristicResult_t> results(20);
        int found = 0;
        CHECK(cublasLtMatmulAlgoGetHeuristic(handle, operation, a, b, d, d, preference, 20, results.data(), &found) ==
              expected);
        results.resize(static_cast<std::size_t>(found));
        return results;
    }

    cublasStatus_t run(const cublasLtMatmulAlgo_t& algorithm) {
        return cublasLtMatmul(handle, operation, alpha, a_data, a, b_values.data(), b, &zero, d_values.data(), d,
                              d_values.data(), d, &algorithm, workspace.data(), workspace_bytes, nullptr);
    }
};

}  // namespace

TEST_CASE("Algorithms are found as preferences want them, and compute the product") {
    emulation::reset();
    const auto handles = emulation::counts().live_handles;
    {
        Matmul matmul;
        CHECK(emulation::counts().live_handles == handles + 6);
        for (const auto& result : matmul.algorithms()) CHECK(result.workspaceSize == 0);
        CHECK(matmul.prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{8} << 20) == CUBLAS_STATUS_SUCCESS);
        const auto all = matmul.algorithms();
        CHECK(all.size() > 4);
        for (const auto& result : all) {
            CHECK(result.workspaceSize <= std::size_t{8} << 20);
            CHECK(matmul.run(result.algo) == CUBLAS_STATUS_SUCCESS);
            CHECK(matmul.d_values.values() == std::vector<float>(8, 8));
        }
        CHECK(matmul.prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, std::uint32_t{4}) == CUBLAS_STATUS_SUCCESS);
        CHECK(matmul.algorithms().size() < all.size());
    }
    CHECK(emulation::counts().live_handles == handles);
}

TEST_CASE("A product is refused where cuBLASLt refuses it") {
    emulation::reset();
    Matmul matmul;
    const auto found = matmul.algorithms();
    const cublasLtMatmulAlgo_t aligned = found.front().algo;
    const cublasLtMatmulAlgo_t unaligned = found.back().algo;

    CHECK(matmul.run({}) == CUBLAS_STATUS_INVALID_VALUE);
    matmul.a_data = matmul.a_values.data() + 1;
    CHECK(matmul.run(aligned) == CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(matmul.run(unaligned) == CUBLAS_STATUS_SUCCESS);
    matmul.a_data = matmul.a_values.data() + 2;  // whose last element is beyond the end
    CHECK(matmul.run(unaligned) == CUBLAS_STATUS_EXECUTION_FAILED);
    matmul.a_data = matmul.a_values.data();
    matmul.alpha = nullptr;
    CHECK(matmul.run(aligned) == CUBLAS_STATUS_INVALID_VALUE);
    matmul.alpha = &Matmul::one;
    CHECK(matmul.prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{8} << 20) == CUBLAS_STATUS_SUCCESS);
    matmul.workspace_bytes = 1000;
    for (const auto& result : matmul.algorithms())
        CHECK(matmul.run(result.algo) ==
              (result.workspaceSize == 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE));
    CHECK(matmul.prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint32_t{8}) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(matmul.prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, std::uint64_t{8}) == CUBLAS_STATUS_INVALID_VALUE);
}

TEST_CASE("Layouts and types that do not fit have no algorithm") {
    emulation::reset();
    Matmul(CUBLAS_COMPUTE_32F, CUDA_R_32F, 7).algorithms(CUBLAS_STATUS_INVALID_VALUE);
    Matmul(CUBLAS_COMPUTE_32F, CUDA_R_32F, 8, 7).algorithms(CUBLAS_STATUS_INVALID_VALUE);
    Matmul(CUBLAS_COMPUTE_32F, CUDA_R_16F).algorithms(CUBLAS_STATUS_NOT_SUPPORTED);
    Matmul(CUBLAS_COMPUTE_16F).algorithms(CUBLAS_STATUS_NOT_SUPPORTED);
    Matmul untransposed;
    const cublasOperation_t none = CUBLAS_OP_N;
    CHECK(cublasLtMatmulDescSetAttribute(untransposed.operation, CUBLASLT_MATMUL_DESC_TRANSA, &none, sizeof none) ==
          CUBLAS_STATUS_SUCCESS);
    untransposed.algorithms(CUBLAS_STATUS_NOT_SUPPORTED);
    cublasLtMatrixLayoutDestroy(untransposed.d);
    untransposed.algorithms(CUBLAS_STATUS_INVALID_VALUE);
}

TEST_CASE("Events tell the time that products take") {
    emulation::reset();
    emulation::set_matmul_milliseconds(std::vector<double>(emulation::matmul_algorithms, 5.0));
    Matmul matmul;
    cudaEvent_t start = nullptr, stop = nullptr, untimed = nullptr;
    CHECK(cudaEventCreate(&start) == cudaSuccess);
    CHECK(cudaEventCreate(&stop) == cudaSuccess);
    CHECK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming) == cudaSuccess);
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, start, stop) == cudaErrorInvalidResourceHandle);  // never recorded
    CHECK(cudaEventRecord(start) == cudaSuccess);
    CHECK(matmul.run(matmul.algorithms().front().algo) == CUBLAS_STATUS_SUCCESS);
    CHECK(cudaEventRecord(stop) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&milliseconds, start, stop) == cudaSuccess);
    CHECK(milliseconds == doctest::Approx(5).epsilon(0.01));
    CHECK(cudaEventRecord(untimed) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&milliseconds, start, untimed) == cudaErrorInvalidResourceHandle);
    for (const auto event : {start, stop, untimed}) cudaEventDestroy(event);
    emulation::reset();
}

#include "cublasLt.h"

#include "state.hpp"

#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

struct cublasLtContext {};

struct cublasLtMatmulDescOpaque_t {
    cublasComputeType_t compute_type;
    cudaDataType_t scale_type;
    cublasOperation_t transposes_a = CUBLAS_OP_N;
    cublasOperation_t transposes_b = CUBLAS_OP_N;
};

struct cublasLtMatrixLayoutOpaque_t {
    cudaDataType_t type;
    std::size_t rows;
    std::size_t cols;
    std::size_t leading_dimension;

    [[nodiscard]] std::size_t element_bytes() const { return type == CUDA_R_32F ? sizeof(float) : sizeof(Eigen::half); }
    [[nodiscard]] std::size_t bytes() const {
        return cols == 0 ? 0 : ((cols - 1) * leading_dimension + rows) * element_bytes();
    }
    /// Whether columns are so aligned if the first one is.
    [[nodiscard]] bool is_aligned(std::size_t to_bytes) const {
        return leading_dimension * element_bytes() % to_bytes == 0;
    }
    friend bool operator==(const cublasLtMatrixLayoutOpaque_t&, const cublasLtMatrixLayoutOpaque_t&) = default;
};

struct cublasLtMatmulPreferenceOpaque_t {
    std::uint64_t workspace_bytes = 0;
    std::array<std::uint32_t, 4> alignments{256, 256, 256, 256};  // of A, B, C, D
};

namespace emulation {
namespace {

struct StatusText {
    cublasStatus_t status;
    const char* name;
    const char* text;
};

constexpr std::array status_texts{
    StatusText{CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS", "success"},
    StatusText{CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED", "the library was not initialized"},
    StatusText{CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED", "the resource allocation failed"},
    StatusText{CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE",
               "an unsupported value or parameter was passed to the function"},
    StatusText{CUBLAS_STATUS_ARCH_MISMATCH, "CUBLAS_STATUS_ARCH_MISMATCH",
               "the function requires an architectural feature absent from the device"},
    StatusText{CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED",
               "the function failed to launch on the GPU"},
    StatusText{CUBLAS_STATUS_INTERNAL_ERROR, "CUBLAS_STATUS_INTERNAL_ERROR", "an internal operation failed"},
    StatusText{CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED",
               "the requested functionality is not supported"}};

const StatusText& text_of(cublasStatus_t status) {
    static constexpr StatusText unknown{CUBLAS_STATUS_INTERNAL_ERROR, "unknown status", "unknown status"};
    const auto* found = std::find_if(status_texts.begin(), status_texts.end(),
                                     [&](const StatusText& text) { return text.status == status; });
    return found == status_texts.end() ? unknown : *found;
}

/// What is live of a type.
template <class T>
Handles<T>& live() {
    static Handles<T> handles;
    return handles;
}

template <class Body>
cublasStatus_t cublas_call(Body body) {
    const std::lock_guard lock(state().mutex);
    return admit(state()) == cudaSuccess ? body(state()) : CUBLAS_STATUS_INTERNAL_ERROR;
}

template <class T>
cublasStatus_t create(T** handle, const T& value) {
    return cublas_call([&](State& s) {
        *handle = live<T>().create();
        **handle = value;
        ++s.live_cublas_handles;
        return CUBLAS_STATUS_SUCCESS;
    });
}

template <class T>
cublasStatus_t destroy(T* handle) {
    const std::lock_guard lock(state().mutex);
    if (!live<T>().destroy(handle)) return CUBLAS_STATUS_INVALID_VALUE;
    --state().live_cublas_handles;
    return CUBLAS_STATUS_SUCCESS;
}

/// Keeps a value for an attribute that has this type.
template <class T>
cublasStatus_t assign(T& attribute, const void* value, std::size_t bytes) {
    if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&attribute, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/// Of D = alpha op(A) op(B) + beta C.
struct Layouts {
    cublasLtMatrixLayout_t a, b, c, d;
};

cublasStatus_t check_handles(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const Layouts& layouts) {
    if (!live<cublasLtContext>().contains(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    const auto is_live = [](cublasLtMatrixLayout_t layout) {
        return live<cublasLtMatrixLayoutOpaque_t>().contains(layout);
    };
    return live<cublasLtMatmulDescOpaque_t>().contains(operation) && is_live(layouts.a) && is_live(layouts.b) &&
                   is_live(layouts.c) && is_live(layouts.d)
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_INVALID_VALUE;
}

// The library needs op(A) = Aᵀ, op(B) = B, operands of the same type and results in float.
cublasStatus_t check_problem(const cublasLtMatmulDescOpaque_t& operation, const Layouts& layouts) {
    const auto& [a, b, c, d] = layouts;
    for (const auto* layout : {a, b, c, d})
        if (layout->rows == 0 || layout->cols == 0 || layout->leading_dimension < layout->rows)
            return CUBLAS_STATUS_INVALID_VALUE;
    if (operation.transposes_a != CUBLAS_OP_T || operation.transposes_b != CUBLAS_OP_N)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (a->rows != b->rows || d->rows != a->cols || d->cols != b->cols || !(*c == *d))
        return CUBLAS_STATUS_INVALID_VALUE;
    const bool known = a->type == CUDA_R_32F || a->type == CUDA_R_16F || a->type == CUDA_R_16BF;
    return known && b->type == a->type && d->type == CUDA_R_32F && operation.compute_type == CUBLAS_COMPUTE_32F &&
                   operation.scale_type == CUDA_R_32F
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_NOT_SUPPORTED;
}

struct Algorithm {
    std::size_t alignment;  // of pointers and columns; 0: that of an element
    std::size_t workspace_bytes;
    std::size_t even_cols;  // the number of D's columns is a multiple of it

    [[nodiscard]] bool supports(const Layouts& layouts) const {
        if (layouts.d->cols % even_cols != 0) return false;
        return alignment == 0 || (layouts.a->is_aligned(alignment) && layouts.b->is_aligned(alignment) &&
                                  layouts.d->is_aligned(alignment));
    }
    [[nodiscard]] std::size_t alignment_of(cublasLtMatrixLayout_t layout) const {
        return alignment == 0 ? layout->element_bytes() : alignment;
    }
};

// In the order of the speed that cuBLASLt would expect.
constexpr std::array<Algorithm, matmul_algorithms> algorithms{
    Algorithm{16, 0, 1},       Algorithm{16, 8 << 20, 1}, Algorithm{16, 4 << 20, 2}, Algorithm{8, 0, 1},
    Algorithm{0, 32 << 20, 1}, Algorithm{0, 64 << 20, 1}, Algorithm{0, 0, 1},        Algorithm{0, 0, 2},
    Algorithm{0, 1 << 20, 1},  Algorithm{0, 0, 1}};

// What an algorithm's data are: its number and the type of the operands it was found for.
constexpr std::uint64_t magic = 0x6375626c61734c74;
cublasLtMatmulAlgo_t encode(std::size_t number, const Layouts& layouts) {
    return {{magic, number, static_cast<std::uint64_t>(layouts.a->type)}};
}
const Algorithm* decode(const cublasLtMatmulAlgo_t* algorithm, const Layouts& layouts) {
    if (algorithm == nullptr || algorithm->data[0] != magic || algorithm->data[1] >= algorithms.size()) return nullptr;
    if (algorithm->data[2] != static_cast<std::uint64_t>(layouts.a->type)) return nullptr;
    return &algorithms[algorithm->data[1]];
}

bool prefers(const cublasLtMatmulPreferenceOpaque_t& preference, const Algorithm& algorithm, const Layouts& layouts) {
    const std::array matrices{layouts.a, layouts.b, layouts.c, layouts.d};
    for (std::size_t i = 0; i < matrices.size(); ++i)
        if (preference.alignments[i] % algorithm.alignment_of(matrices[i]) != 0) return false;
    return algorithm.workspace_bytes <= preference.workspace_bytes;
}

struct Arguments {
    const void* alpha;
    const void* a;
    const void* b;
    const void* beta;
    const void* c;
    void* d;
    void* workspace;
    std::size_t workspace_bytes;
};

cublasStatus_t check_memory(const State& s, const Algorithm& algorithm, const Layouts& layouts, const Arguments& x) {
    const auto is_aligned = [](const void* pointer, std::size_t bytes) {
        return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
    };
    if (x.alpha == nullptr || x.beta == nullptr || algorithm.workspace_bytes > x.workspace_bytes ||
        !is_aligned(x.workspace, 16))
        return CUBLAS_STATUS_INVALID_VALUE;
    for (const auto& [pointer, layout] :
         {std::pair(x.a, layouts.a), std::pair(x.b, layouts.b), std::pair(x.c, layouts.c),
          std::pair(static_cast<const void*>(x.d), layouts.d)}) {
        if (!is_aligned(pointer, algorithm.alignment_of(layout))) return CUBLAS_STATUS_NOT_SUPPORTED;
        if (!s.device_memory.contain(pointer, layout->bytes())) return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    const bool has_workspace =
        algorithm.workspace_bytes == 0 || s.device_memory.contain(x.workspace, algorithm.workspace_bytes);
    return has_workspace ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

/// The kernel, with copies of all that a caller may change before it runs.
struct Product {
    std::size_t m, n, k;
    const void* a;
    const void* b;
    const float* c;
    float* d;
    std::size_t a_stride, b_stride, d_stride;
    float alpha, beta;

    template <class S>
    void run() const {
        for (std::size_t j = 0; j < n; ++j)
            for (std::size_t i = 0; i < m; ++i) {
                float sum = 0;
                for (std::size_t l = 0; l < k; ++l)
                    sum += static_cast<float>(static_cast<const S*>(a)[i * a_stride + l]) *
                           static_cast<float>(static_cast<const S*>(b)[j * b_stride + l]);
                const std::size_t at = j * d_stride + i;
                d[at] = beta == 0 ? alpha * sum : alpha * sum + beta * c[at];
            }
    }

    void run(cudaDataType_t type) const {
        if (type == CUDA_R_32F) run<float>();
        if (type == CUDA_R_16F) run<Eigen::half>();
        if (type == CUDA_R_16BF) run<Eigen::bfloat16>();
    }
};

cublasStatus_t heuristic(State& s, cublasLtMatmulDesc_t operation, const Layouts& layouts,
                         const cublasLtMatmulPreferenceOpaque_t& preference, int requested,
                         cublasLtMatmulHeuristicResult_t* results, int* returned) {
    ++s.counts.matmul_heuristics;
    *returned = 0;
    if (requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
    if (const auto status = check_problem(*operation, layouts); status != CUBLAS_STATUS_SUCCESS) return status;
    for (std::size_t number = 0; number < s.settings.matmul_milliseconds.size() && *returned < requested; ++number) {
        const Algorithm& algorithm = algorithms[number];
        if (!algorithm.supports(layouts) || !prefers(preference, algorithm, layouts)) continue;
        results[(*returned)++] = {encode(number, layouts), algorithm.workspace_bytes, CUBLAS_STATUS_SUCCESS, 1, {}};
    }
    return *returned == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t matmul(State& s, cublasLtMatmulDesc_t operation, const Layouts& layouts,
                      const cublasLtMatmulAlgo_t* chosen, const Arguments& x, cudaStream_t stream) {
    if (const auto status = check_problem(*operation, layouts); status != CUBLAS_STATUS_SUCCESS) return status;
    const Algorithm* algorithm = decode(chosen, layouts);
    if (algorithm == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    if (!algorithm->supports(layouts)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (const auto status = check_memory(s, *algorithm, layouts, x); status != CUBLAS_STATUS_SUCCESS) return status;

    ++s.counts.matmuls;
    s.counts.last_matmul_algorithm = chosen->data[1];
    const Product product{layouts.d->rows,
                          layouts.d->cols,
                          layouts.a->rows,
                          x.a,
                          x.b,
                          static_cast<const float*>(x.c),
                          static_cast<float*>(x.d),
                          layouts.a->leading_dimension,
                          layouts.b->leading_dimension,
                          layouts.d->leading_dimension,
                          *static_cast<const float*>(x.alpha),
                          *static_cast<const float*>(x.beta)};
    const double time = s.settings.matmul_milliseconds.at(chosen->data[1]);
    const cudaError_t error =
        put(s, stream,
            [&s, product, type = layouts.a->type, time, workspace = x.workspace, bytes = algorithm->workspace_bytes] {
                if (bytes > 0) std::memset(workspace, 0xff, bytes);
                product.run(type);
                s.milliseconds += time;
            });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace
}  // namespace emulation

using namespace emulation;

const char* cublasLtGetStatusName(cublasStatus_t status) {
    return text_of(status).name;
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
    return text_of(status).text;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    return create(handle, cublasLtContext{});
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    return destroy(handle);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation, cublasComputeType_t compute_type,
                                        cudaDataType_t scale_type) {
    return create(operation, cublasLtMatmulDescOpaque_t{compute_type, scale_type});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
    return destroy(operation);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
    return cublas_call([&](State&) {
        if (!live<cublasLtMatmulDescOpaque_t>().contains(operation)) return CUBLAS_STATUS_INVALID_VALUE;
        if (attribute == CUBLASLT_MATMUL_DESC_TRANSA) return assign(operation->transposes_a, value, bytes);
        if (attribute == CUBLASLT_MATMUL_DESC_TRANSB) return assign(operation->transposes_b, value, bytes);
        return CUBLAS_STATUS_INVALID_VALUE;
    });
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, std::uint64_t rows,
                                          std::uint64_t cols, std::int64_t leading_dimension) {
    if (leading_dimension < 0) return CUBLAS_STATUS_INVALID_VALUE;
    return create(layout, cublasLtMatrixLayoutOpaque_t{type, rows, cols, static_cast<std::size_t>(leading_dimension)});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    return destroy(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    return create(preference, cublasLtMatmulPreferenceOpaque_t{});
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    return destroy(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    std::size_t bytes) {
    return cublas_call([&](State&) {
        if (!live<cublasLtMatmulPreferenceOpaque_t>().contains(preference)) return CUBLAS_STATUS_INVALID_VALUE;
        if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
            return assign(preference->workspace_bytes, value, bytes);
        const auto matrix = static_cast<std::size_t>(attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
        if (matrix >= preference->alignments.size()) return CUBLAS_STATUS_INVALID_VALUE;
        return assign(preference->alignments[matrix], value, bytes);
    });
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* returned) {
    return cublas_call([&](State& s) {
        const Layouts layouts{a, b, c, d};
        const cublasStatus_t status = check_handles(handle, operation, layouts);
        if (status != CUBLAS_STATUS_SUCCESS) return status;
        if (!live<cublasLtMatmulPreferenceOpaque_t>().contains(preference)) return CUBLAS_STATUS_INVALID_VALUE;
        return heuristic(s, operation, layouts, *preference, requested, results, returned);
    });
}

// As cuBLASLt says: it does not see where matrices begin, and the result's algorithm stays as it is.
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
    return cublas_call([&](State&) {
        const Layouts layouts{a, b, c, d};
        cublasStatus_t status = check_handles(handle, operation, layouts);
        if (status == CUBLAS_STATUS_SUCCESS) status = check_problem(*operation, layouts);
        if (status != CUBLAS_STATUS_SUCCESS) return status;
        const Algorithm* decoded = decode(algorithm, layouts);
        if (decoded == nullptr || result == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
        if (!decoded->supports(layouts)) return CUBLAS_STATUS_NOT_SUPPORTED;
        result->workspaceSize = decoded->workspace_bytes;
        result->state = CUBLAS_STATUS_SUCCESS;
        return CUBLAS_STATUS_SUCCESS;
    });
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
    return cublas_call([&](State& s) {
        const Layouts layouts{a_layout, b_layout, c_layout, d_layout};
        const cublasStatus_t status = check_handles(handle, operation, layouts);
        if (status != CUBLAS_STATUS_SUCCESS) return status;
        return matmul(s, operation, layouts, algorithm, {alpha, a, b, beta, c, d, workspace, workspace_bytes}, stream);
    });
}

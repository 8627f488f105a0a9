#pragma once

#include <mistral/base/error.hpp>

#include <cuda_runtime_api.h>

namespace mistral::cuda {

/// Throws Error, with the call and where it stands, unless it succeeded.
inline void check(cudaError_t status, const char* call, const char* file, int line) {
    require(status == cudaSuccess, file, ':', line, ": ", call, " failed: ", cudaGetErrorName(status), ", ",
            cudaGetErrorString(status));
}

}  // namespace mistral::cuda

/// Calls a function of CUDA's and throws Error where it fails.
#define MISTRAL_CUDA(call) ::mistral::cuda::check((call), #call, __FILE__, __LINE__)

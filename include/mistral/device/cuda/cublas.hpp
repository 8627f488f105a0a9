#pragma once

#include <mistral/base/error.hpp>

#include <cublasLt.h>

namespace mistral::cuda {

/// Throws Error, with the call and where it stands, unless it succeeded.
inline void check(cublasStatus_t status, const char* call, const char* file, int line) {
    require(status == CUBLAS_STATUS_SUCCESS, file, ':', line, ": ", call, " failed: ", cublasLtGetStatusName(status),
            ", ", cublasLtGetStatusString(status));
}

}  // namespace mistral::cuda

/// Calls a function of cuBLASLt's and throws Error where it fails.
#define MISTRAL_CUBLAS(call) ::mistral::cuda::check((call), #call, __FILE__, __LINE__)

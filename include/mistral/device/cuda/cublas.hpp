#pragma once

#include <mistral/base/error.hpp>

#include <cublasLt.h>

#include <memory>
#include <type_traits>

namespace mistral::cuda {

/// Throws Error, with the call and where it stands, unless it succeeded.
inline void check(cublasStatus_t status, const char* call, const char* file, int line) {
    require(status == CUBLAS_STATUS_SUCCESS, file, ':', line, ": ", call, " failed: ", cublasLtGetStatusName(status),
            ", ", cublasLtGetStatusString(status));
}

/// Calls the function of CUDA's or of its libraries' that ends the life of what a handle names.
template <auto destroy>
struct Destroy {
    template <class T>
    void operator()(T* handle) const {
        destroy(handle);
    }
};

/// A handle of the type H, destroyed with its owner.
template <class H, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<H>, Destroy<destroy>>;

}  // namespace mistral::cuda

/// Calls a function of cuBLASLt's and throws Error where it fails.
#define MISTRAL_CUBLAS(call) ::mistral::cuda::check((call), #call, __FILE__, __LINE__)

#pragma once

#include <cuda_runtime.h>

namespace mistral::cuda {

/// silu(gate) * up, with silu(x) = x / (1 + exp(-x)): where the exponential overflows, the quotient is the zero that it
/// ought to be.
__device__ __forceinline__ float swiglu(float gate, float up) {
    return gate / (1 + expf(-gate)) * up;
}

}  // namespace mistral::cuda

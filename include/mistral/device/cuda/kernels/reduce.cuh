#pragma once

#include <cuda_runtime.h>

namespace mistral::cuda {

inline constexpr int warp_lanes = 32;

/// The sum over the lanes of a warp, in all of them. Its order is that of a balanced tree.
__device__ __forceinline__ float sum_of_warp(float value) {
#pragma unroll
    for (int distance = warp_lanes / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

}  // namespace mistral::cuda

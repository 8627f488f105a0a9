#pragma once

#include <cuda_runtime.h>

namespace mistral::cuda {

inline constexpr int warp_lanes = 32;

/// What combine(a, b) makes of the values of a warp's lanes, in all of them. Its order is that of a balanced tree.
template <class Combine>
__device__ __forceinline__ float reduce_warp(float value, Combine combine) {
#pragma unroll
    for (int distance = warp_lanes / 2; distance > 0; distance /= 2)
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
    return value;
}

__device__ __forceinline__ float sum_of_warp(float value) {
    return reduce_warp(value, [](float a, float b) { return a + b; });
}
__device__ __forceinline__ float maximum_of_warp(float value) {
    return reduce_warp(value, [](float a, float b) { return fmaxf(a, b); });
}

}  // namespace mistral::cuda

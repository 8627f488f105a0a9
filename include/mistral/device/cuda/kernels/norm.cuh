#pragma once

#include <mistral/device/cuda/kernels.hpp>
#include <mistral/device/cuda/kernels/elements.cuh>
#include <mistral/device/cuda/kernels/launch.cuh>
#include <mistral/device/cuda/kernels/reduce.cuh>
#include <mistral/device/cuda/launch_shapes.hpp>

namespace mistral::cuda {

/// The sum over the threads of a block of whole warps, in all of them.
__device__ __forceinline__ float sum_of_block(float value) {
    static __shared__ float of_warps[warp_lanes];
    value = sum_of_warp(value);
    if (threadIdx.x % warp_lanes == 0) of_warps[threadIdx.x / warp_lanes] = value;
    __syncthreads();
    const unsigned lane = threadIdx.x % warp_lanes;
    return sum_of_warp(lane < blockDim.x / warp_lanes ? of_warps[lane] : 0.0f);
}

/// A block normalises a row: x / sqrt(mean(x²) + eps) * weight (RMSNorm, arXiv:1910.07467, equation 4). `cols` is a
/// multiple of `width`.
template <int width>
__global__ void __launch_bounds__(1024)
    normalise_rows(Rows<const float> x, const float* weight, float eps, Index cols, Rows<float> out) {
    let_next_begin();
    wait_for_previous();
    const Index row = blockIdx.x;
    const Index first = Index{threadIdx.x} * width;
    const Index step = Index{blockDim.x} * width;
    float squares = 0;
    for (Index col = first; col < cols; col += step) {
        float values[width];
        load(x[row] + col, values);
#pragma unroll
        for (int i = 0; i < width; ++i) squares = fmaf(values[i], values[i], squares);
    }
    const float scale = 1 / sqrtf(sum_of_block(squares) / static_cast<float>(cols) + eps);
    for (Index col = first; col < cols; col += step) {
        float values[width], weights[width];
        load(x[row] + col, values);
        load(weight + col, weights);
#pragma unroll
        for (int i = 0; i < width; ++i) values[i] = values[i] * scale * weights[i];
        store(values, out[row] + col);
    }
}

void rms_norm(cudaStream_t stream, MatrixView<const float> x, const float* weight, float eps, MatrixView<float> out) {
    constexpr int wide = 4;
    if (x.rows() == 0 || x.cols() == 0) return;
    const bool aligned = x.cols() % wide == 0 && is_aligned(x, wide) && is_aligned(out, wide) &&
                         is_aligned(MatrixView<const float>(weight, 1, x.cols()), wide);
    launch(aligned ? normalise_rows<wide> : normalise_rows<1>, static_cast<unsigned>(x.rows()),
           norm_threads(x.cols(), aligned ? wide : 1), 0, stream, x, weight, eps, x.cols(), out);
}

}  // namespace mistral::cuda

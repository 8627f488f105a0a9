#pragma once

#include <mistral/device/cuda/attention_shapes.hpp>
#include <mistral/device/cuda/kernels/attention_head.cuh>
#include <mistral/device/cuda/kernels/launch.cuh>

#include <cuda_runtime.h>

#include <cmath>

/// What ranges of keys come to becomes the attention of a query, by their maxima and totals ("Flash-Decoding"; online
/// softmax, arXiv:1805.02867).
namespace mistral::cuda {

/// The tokens of one launch, and where it writes what the ranges come to: [tokens * query_heads, ranges,
/// partial_floats].
template <class C>
struct RangeLaunch {
    RunPart<C> parts[most_sequences];
    int count = 0;
    int tokens = 0;
    int ranges = 0;
    float* partials = nullptr;
    bool aligned = false;  ///< whether rows of keys and values are whole chunks, and lie where chunks can be loaded

    /// The part whose token this is.
    [[nodiscard]] __device__ int part_of(int token) const {
        int part = 0;
        while (part + 1 < count && parts[part + 1].first_in_launch <= token) ++part;
        return part;
    }
    [[nodiscard]] __device__ float* partial(Index query, Index range, int head_dim) const {
        return partials + (query * ranges + range) * RangeBlocks{.head_dim = head_dim}.partial_floats();
    }
};

/// Merges what the ranges that a query sees come to: a block for each query, a thread for each element.
template <class C>
__global__ void __launch_bounds__(RangeBlocks::threads)
    merge_ranges(const AttentionArguments<C> arguments, const RangeLaunch<C> launch, int query_heads) {
    let_next_begin();
    wait_for_previous();
    constexpr int threads = RangeBlocks::threads;
    constexpr Index keys = RangeBlocks{sizeof(C), 0}.keys();
    static __shared__ float maxima[threads];
    static __shared__ float weights[threads];
    static __shared__ float totals[threads];
    const int thread = static_cast<int>(threadIdx.x);
    const int head_dim = arguments.head_dim;
    const int query = static_cast<int>(blockIdx.x);
    const RunPart<C> part = launch.parts[launch.part_of(query / query_heads)];
    const AttentionHead<C> head(arguments, part, 0);
    const Index token = part.first_token + query / query_heads - part.first_in_launch;
    const Index first = head.first_visible(token) / keys - head.first_visible(part.first_token) / keys;
    const int count = static_cast<int>(head.last_visible(token) / keys - head.first_visible(token) / keys) + 1;

    const auto partial = [&](int range) { return launch.partial(query, first + range, head_dim); };
    float maximum = no_score();
    for (int range = thread; range < count; range += threads) maximum = fmaxf(maximum, partial(range)[head_dim]);
    maxima[thread] = maximum;
    for (int half = threads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) maxima[thread] = fmaxf(maxima[thread], maxima[thread + half]);
    }
    __syncthreads();
    maximum = maxima[0];

    constexpr int dims = longest_head / threads;  // of a thread
    float sums[dims] = {};
    float total = 0;
    for (int begin = 0; begin < count; begin += threads) {
        if (begin + thread < count) {
            const float* const stored = partial(begin + thread);
            weights[thread] = exp2f(stored[head_dim] - maximum);
            totals[thread] = weights[thread] * stored[head_dim + 1];
        }
        __syncthreads();
        const int end = count - begin < threads ? count - begin : threads;
#pragma unroll 8
        for (int range = 0; range < end; ++range) {
            total += totals[range];
#pragma unroll
            for (int i = 0; i < dims; ++i)
                if (thread + i * threads < head_dim)
                    sums[i] += weights[range] * partial(begin + range)[thread + i * threads];
        }
        __syncthreads();
    }
    const float normaliser = 1 / total;
    float* const out = arguments.out + (part.row + token) * arguments.out_stride + query % query_heads * head_dim;
#pragma unroll
    for (int i = 0; i < dims; ++i)
        if (thread + i * threads < head_dim) out[thread + i * threads] = sums[i] * normaliser;
}

}  // namespace mistral::cuda

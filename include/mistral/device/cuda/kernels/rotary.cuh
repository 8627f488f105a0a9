#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/device/cuda/kernels.hpp>
#include <mistral/device/cuda/kernels/elements.cuh>
#include <mistral/device/cuda/kernels/launch.cuh>
#include <mistral/device/cuda/kernels/rows_of_runs.cuh>
#include <mistral/device/cuda/launch_shapes.hpp>

#include <cstddef>
#include <span>

namespace mistral::cuda {

alignas(16) extern __shared__ std::byte dynamic_shared[];

/// A block turns the pairs of some heads of a token by position * frequency (rotary position embedding,
/// arXiv:2104.09864, section 3.2.2). The angle is a product of binary32 numbers, as in the reference that models were
/// trained with; its sine and cosine are exact to the last digit but one, whatever the position, and computed once for
/// these heads, in dynamic shared memory [pairs].
__global__ static void __launch_bounds__(1024)
    turn_pairs(Rows<float> x, const __grid_constant__ RowsOfRuns runs, const float* frequencies, int heads,
               int heads_of_block, int pairs, bool halves) {
    let_next_begin();
    wait_for_previous();
    auto* const turns = reinterpret_cast<float2*>(dynamic_shared);
    const int token = static_cast<int>(blockIdx.x);
    const auto place = static_cast<float>(runs.position_of(token, runs.run_of(token)));
    for (int i = static_cast<int>(threadIdx.x); i < pairs; i += static_cast<int>(blockDim.x)) {
        double sine, cosine;
        sincos(static_cast<double>(__fmul_rn(place, frequencies[i])), &sine, &cosine);
        turns[i] = make_float2(static_cast<float>(cosine), static_cast<float>(sine));
    }
    __syncthreads();
    const int first_head = static_cast<int>(blockIdx.y) * heads_of_block;
    const int last_head = min(first_head + heads_of_block, heads);
    float* const row = x[token];
    const auto first_pair = first_head * pairs + static_cast<int>(threadIdx.x);
    for (int i = first_pair; i < last_head * pairs; i += static_cast<int>(blockDim.x)) {
        const int pair = i % pairs;
        float* const first = row + (halves ? 2 * i - pair : 2 * i);
        float* const second = first + (halves ? pairs : 1);
        const float2 turn = turns[pair];
        const float a = *first;
        const float b = *second;
        *first = a * turn.x - b * turn.y;
        *second = b * turn.x + a * turn.y;
    }
}

void rotate(cudaStream_t stream, MatrixView<float> x, std::span<const TokenRun> runs, const Index* positions,
            const float* frequencies, Index head_dim, RotaryPairing pairing) {
    if (x.rows() == 0 || x.cols() == 0) return;
    const Index pairs = head_dim / 2;
    const Index heads = x.cols() / head_dim;
    const Index blocks = rotary_blocks(x.rows(), heads);
    const Index heads_of_block = divide_up(heads, blocks);
    launch(turn_pairs, {static_cast<unsigned>(x.rows()), static_cast<unsigned>(blocks)},
           rotary_threads(heads_of_block * pairs), static_cast<std::size_t>(pairs) * sizeof(float2), stream, x,
           RowsOfRuns(runs, positions), frequencies, static_cast<int>(heads), static_cast<int>(heads_of_block),
           static_cast<int>(pairs), pairing == RotaryPairing::halves);
}

}  // namespace mistral::cuda

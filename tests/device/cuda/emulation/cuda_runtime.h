#pragma once

// CUDA's language and runtime on the processor, for tests: code for the GPU is compiled by any compiler, and its
// threads run one after the other, in an order that a test chooses (emulation.hpp). Kernels keep to these forms.
//
// In a function, which may be a template or __device__, with alignas first:
//     static __shared__ float sums[32];
//     alignas(16) static __shared__ std::byte tile[1024];
//
// In the namespace mistral::cuda, or in a function right in it. An unnamed namespace may hold the kernels that use it,
// but not the declaration: it would be of another variable, which is nowhere.
//     alignas(16) extern __shared__ std::byte dynamic_shared[];
//
// For the host, instead of <<<...>>>:
//     launch(kernel, grid, block, shared_bytes, stream, arguments...);
//
// Shared memory starts as bytes of 255, if static where its function is in mistral::cuda. Instructions of the GPU that
// have no function in CUDA are wrapped in headers of which there is an emulated twin. Kernels do not wait for other
// blocks.

#include "cuda_runtime_api.h"

#include "kernel_language.h"
#include "launch.h"
#include "math_functions.h"
#include "warp_functions.h"

#include <cstddef>

template <class T>
cudaError_t cudaMalloc(T** pointer, std::size_t bytes) {
    return cudaMalloc(reinterpret_cast<void**>(pointer), bytes);
}

template <class T>
cudaError_t cudaMallocAsync(T** pointer, std::size_t bytes, cudaStream_t stream) {
    return cudaMallocAsync(reinterpret_cast<void**>(pointer), bytes, stream);
}

template <class T>
cudaError_t cudaMallocHost(T** pointer, std::size_t bytes, unsigned flags = 0) {
    return cudaHostAlloc(reinterpret_cast<void**>(pointer), bytes, flags);
}

template <class T>
cudaError_t cudaHostAlloc(T** pointer, std::size_t bytes, unsigned flags) {
    return cudaHostAlloc(reinterpret_cast<void**>(pointer), bytes, flags);
}

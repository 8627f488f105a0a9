#pragma once

#include <mistral/device/cuda/check.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

namespace mistral::cuda {

/// Kernels overlap on GPUs that can (programmatic dependent launch; CUDA C++ Programming Guide, section of that name):
/// one may begin as soon as all blocks of the one before it have. So every kernel first says that the next one may, and
/// every thread of it waits before it reads what others wrote, or writes. What it waits for has waited likewise, so
/// that all that came earlier on the stream is done then.
__device__ __forceinline__ void let_next_begin() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}
__device__ __forceinline__ void wait_for_previous() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

/// Whether a kernel waits as above: not what was compiled for GPUs before Hopper, wherever it runs.
template <class... Parameters>
[[nodiscard]] bool may_overlap(void (*kernel)(Parameters...)) {
    cudaFuncAttributes attributes;
    MISTRAL_CUDA(cudaFuncGetAttributes(&attributes, kernel));
    return attributes.ptxVersion >= 90;
}

/// Puts a kernel on a stream: `grid` blocks of `block` threads with so much dynamic shared memory each. Throws Error
/// where it cannot be launched.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
            Arguments&&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    cudaLaunchAttribute overlap{};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap;
    config.numAttrs = may_overlap(kernel) ? 1 : 0;
    constexpr std::size_t granted = 48 << 10;  // more has to be asked for
    if (shared_bytes > granted)
        MISTRAL_CUDA(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
    MISTRAL_CUDA(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

}  // namespace mistral::cuda

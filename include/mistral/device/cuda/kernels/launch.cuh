#pragma once

#include <mistral/device/cuda/check.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

namespace mistral::cuda {

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
    constexpr std::size_t granted = 48 << 10;  // more has to be asked for
    if (shared_bytes > granted)
        MISTRAL_CUDA(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
    MISTRAL_CUDA(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

}  // namespace mistral::cuda

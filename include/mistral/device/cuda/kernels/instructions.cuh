#pragma once

#include <cuda_runtime.h>

/// Instructions that no function of CUDA's stands for.
namespace mistral::cuda {

/// Byte i of the result is the one of (y, x), counted from x's lowest, that the lowest three bits of the selector's
/// nibble i name; its highest bit asks for that byte's sign in all bits. `__byte_perm` clears these bits first, by an
/// instruction of its own.
__device__ __forceinline__ unsigned permute_bytes(unsigned x, unsigned y, unsigned selector) {
    unsigned result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(x), "r"(y), "r"(selector));
    return result;
}

}  // namespace mistral::cuda

#pragma once

#include <cuda_runtime.h>

// What the library's header of this name wraps, on the processor.
namespace mistral::cuda {

inline unsigned permute_bytes(unsigned x, unsigned y, unsigned selector) {
    return __byte_perm(x, y, selector);  // which minds signs here, too
}

}  // namespace mistral::cuda

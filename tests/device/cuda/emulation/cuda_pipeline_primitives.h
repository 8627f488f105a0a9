#pragma once

#include "block.hpp"

#include <cstddef>
#include <cstdint>

/// Each thread waits for its own copies; others see them after a barrier.
inline void __pipeline_memcpy_async(void* to_shared, const void* from_global, std::size_t bytes,
                                    std::size_t zeros = 0) {
    if (bytes != 4 && bytes != 8 && bytes != 16) emulation::kernel_error("asynchronous copies are of 4, 8 or 16 bytes");
    if (zeros > bytes) emulation::kernel_error("an asynchronous copy has more zeros than bytes");
    if (reinterpret_cast<std::uintptr_t>(to_shared) % bytes != 0 ||
        reinterpret_cast<std::uintptr_t>(from_global) % bytes != 0)
        emulation::kernel_error("an asynchronous copy is not aligned to its size");
    emulation::copy_to_shared(to_shared, from_global, bytes - zeros, zeros);
}

inline void __pipeline_commit() {
    emulation::commit_copies();
}

/// Up to so many of the last commits may still be under way afterwards.
inline void __pipeline_wait_prior(std::size_t commits) {
    emulation::wait_for_copies(commits);
}

#pragma once

namespace emulation {

/// Overwrites the static shared memory of all kernels with bytes of 255, so that none lives on what others left.
void poison_static_shared_memory();

}  // namespace emulation

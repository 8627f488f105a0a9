#pragma once

#include "cuda_runtime_api.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <vector>

/// What tests set and ask of the emulated GPU. The library's code includes CUDA's headers alone.
///
/// Work on a stream runs at once, in order, on the thread that puts it there; threads take turns. The work of a stream
/// that captures is kept, and runs whenever the graph is launched.
namespace emulation {

/// A kernel did what would hang, fail or be undefined on a GPU. Thrown by the call that runs the kernel.
struct KernelError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// What is there and what happened since `reset`.
struct Counts {
    std::size_t live_allocations = 0;  ///< in the device's memory
    std::size_t live_bytes = 0;
    std::size_t live_host_allocations = 0;  ///< of cudaMallocHost and cudaHostAlloc
    std::size_t live_handles = 0;  ///< streams, events, graphs and what is instantiated from them, all of cuBLASLt
    std::size_t allocations = 0;   ///< calls that allocate memory of the device or of the host
    std::size_t launches = 0;      ///< calls that launch one kernel, also where a graph captures them
    std::size_t kernels_run = 0;   ///< also in graphs
    std::size_t graph_launches = 0;
    std::size_t calls = 0;                  ///< of functions that `fail_call` can make fail
    std::size_t matmul_heuristics = 0;      ///< calls that ask cuBLASLt for algorithms
    std::size_t matmuls = 0;                ///< calls of cublasLtMatmul that put a product on a stream
    std::size_t last_matmul_algorithm = 0;  ///< the number of that call's algorithm
};
[[nodiscard]] Counts counts();

/// Sets all that follows back: counts of what happened, failing calls, devices and their memory and attributes, the
/// seed. What is live stays.
void reset();

/// The n-th call from now, from 1 on, fails with this error and does nothing. Calls that free and destroy, and those
/// that only tell the last error, are not counted: they must work after a failure.
void fail_call(std::size_t n, cudaError_t error = cudaErrorUnknown);

/// 1 by default.
void set_device_count(int count);

/// A GPU of compute capability 9.0 by default.
void set_attribute(cudaDeviceAttr attribute, int value);

/// Allocations that exceed it fail. 16 GiB by default, of which nothing is taken before it is written.
void set_memory(std::size_t bytes);

/// The algorithms that cublasLt.cpp describes.
inline constexpr std::size_t matmul_algorithms = 10;

/// There are as many of cuBLASLt's algorithms as times, `matmul_algorithms` at most and by default. So long each takes
/// on the clock of events, 1 by default.
void set_matmul_milliseconds(std::vector<double> times);

/// The order in which blocks of a grid run, and threads of a block. 0: forwards; 1: backwards; others: shuffled, with a
/// switch at every barrier and warp function. With odd seeds, asynchronous copies to shared memory happen as late as
/// waits for them allow, otherwise at once.
void set_seed(std::uint64_t seed);

/// Whether all these bytes lie in one live allocation of the device.
[[nodiscard]] bool is_device_memory(const void* pointer, std::size_t bytes);

/// Puts work on a stream as a kernel is, for other libraries' functions that run on the GPU.
cudaError_t submit(cudaStream_t stream, std::function<void()> work);

}  // namespace emulation

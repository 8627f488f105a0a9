#pragma once

#include "block.hpp"

#include <algorithm>
#include <cstddef>

// The words of CUDA's C++ that say where a function runs and where data lie.
#define __global__
#define __device__
#define __host__
#define __shared__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) alignas(n)

inline constexpr int warpSize = emulation::warp_size;
inline const uint3& threadIdx = emulation::position.thread;
inline const uint3& blockIdx = emulation::position.block;
inline const dim3& blockDim = emulation::position.block_size;
inline const dim3& gridDim = emulation::position.grid_size;

inline void __syncthreads() {
    emulation::barrier(false);
}
inline int __syncthreads_count(int predicate) {
    return int(emulation::barrier(predicate != 0));
}
inline int __syncthreads_or(int predicate) {
    return emulation::barrier(predicate != 0) != 0;
}
inline int __syncthreads_and(int predicate) {
    return emulation::barrier(predicate == 0) == 0;
}

// Threads take turns only at barriers and warp functions, so that memory is always in order.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

inline void cudaGridDependencySynchronize() {
    emulation::wait_for_earlier_grids();
}
inline void cudaTriggerProgrammaticLaunchCompletion() {}

[[noreturn]] inline void __trap() {
    emulation::kernel_error("__trap");
}

namespace emulation {

template <class T, class Operation>
T read_modify_write(T* address, Operation operation) {
    const T old = *address;
    *address = operation(old);
    return old;
}

}  // namespace emulation

inline int atomicAdd(int* address, int value) {
    return emulation::read_modify_write(address, [&](int old) { return int(unsigned(old) + unsigned(value)); });
}
inline unsigned atomicAdd(unsigned* address, unsigned value) {
    return emulation::read_modify_write(address, [&](unsigned old) { return old + value; });
}
inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
    return emulation::read_modify_write(address, [&](unsigned long long old) { return old + value; });
}
inline float atomicAdd(float* address, float value) {
    return emulation::read_modify_write(address, [&](float old) { return old + value; });
}
inline double atomicAdd(double* address, double value) {
    return emulation::read_modify_write(address, [&](double old) { return old + value; });
}
inline int atomicMax(int* address, int value) {
    return emulation::read_modify_write(address, [&](int old) { return std::max(old, value); });
}
inline unsigned atomicMax(unsigned* address, unsigned value) {
    return emulation::read_modify_write(address, [&](unsigned old) { return std::max(old, value); });
}
inline int atomicMin(int* address, int value) {
    return emulation::read_modify_write(address, [&](int old) { return std::min(old, value); });
}
inline unsigned atomicMin(unsigned* address, unsigned value) {
    return emulation::read_modify_write(address, [&](unsigned old) { return std::min(old, value); });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
    return emulation::read_modify_write(address, [&](unsigned old) { return old >= limit ? 0 : old + 1; });
}
inline int atomicExch(int* address, int value) {
    return emulation::read_modify_write(address, [&](int) { return value; });
}
inline unsigned atomicExch(unsigned* address, unsigned value) {
    return emulation::read_modify_write(address, [&](unsigned) { return value; });
}
inline int atomicCAS(int* address, int expected, int value) {
    return emulation::read_modify_write(address, [&](int old) { return old == expected ? value : old; });
}
inline unsigned atomicCAS(unsigned* address, unsigned expected, unsigned value) {
    return emulation::read_modify_write(address, [&](unsigned old) { return old == expected ? value : old; });
}

// Loads and stores with a wish for the caches.
template <class T>
T __ldg(const T* address) {
    return *address;
}
template <class T>
T __ldcg(const T* address) {
    return *address;
}
template <class T>
T __ldcs(const T* address) {
    return *address;
}
template <class T>
void __stcg(T* address, T value) {
    *address = value;
}
template <class T>
void __stcs(T* address, T value) {
    *address = value;
}

inline std::size_t __cvta_generic_to_shared(const void* pointer) {
    return reinterpret_cast<std::size_t>(pointer);
}

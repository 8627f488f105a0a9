#include "device_buffer.hpp"
#include "emulation.hpp"

#include <mistral/device/cuda/kernels/launch.cuh>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

// Devices, memory, limits of launches, and what tests can make fail and count.

namespace mistral::cuda {
namespace {

__global__ void nothing() {
    wait_for_previous();
}

__global__ void count_up(unsigned* x) {
    wait_for_previous();
    *x += 1;
}

}  // namespace
}  // namespace mistral::cuda

using namespace mistral::cuda;

namespace {

cudaError_t try_launch(dim3 grid, dim3 block, std::size_t shared_bytes = 0) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    return cudaLaunchKernelEx(&config, nothing);
}

}  // namespace

TEST_CASE("There are as many devices as a test says") {
    emulation::reset();
    int value = -1;
    CHECK(cudaGetDeviceCount(&value) == cudaSuccess);
    CHECK(value == 1);
    CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess);
    CHECK(value == 9);
    emulation::set_attribute(cudaDevAttrComputeCapabilityMajor, 7);
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess);
    CHECK(value == 7);
    emulation::set_device_count(2);
    CHECK(cudaSetDevice(1) == cudaSuccess);
    CHECK(cudaGetDevice(&value) == cudaSuccess);
    CHECK(value == 1);
    std::thread([&] { CHECK(cudaGetDevice(&value) == cudaSuccess); }).join();
    CHECK(value == 0);
    emulation::set_device_count(0);
    CHECK(cudaGetDeviceCount(&value) == cudaErrorNoDevice);
    void* memory = nullptr;
    CHECK(cudaMalloc(&memory, 1) == cudaErrorNoDevice);
    emulation::reset();
}

TEST_CASE("Errors have CUDA's names, and the last one is kept until it is asked for") {
    emulation::reset();
    CHECK(std::string(cudaGetErrorName(cudaErrorNoDevice)) == "cudaErrorNoDevice");
    CHECK(std::string(cudaGetErrorString(cudaErrorMemoryAllocation)) == "out of memory");
    CHECK(std::string(cudaGetErrorName(cudaError_t(998))) == "unrecognized error code");
    CHECK(cudaSetDevice(-1) == cudaErrorInvalidDevice);
    CHECK(cudaPeekAtLastError() == cudaErrorInvalidDevice);
    CHECK(cudaGetLastError() == cudaErrorInvalidDevice);
    CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("Memory is aligned, full of bits of 1, counted, and limited") {
    emulation::reset();
    const auto before = emulation::counts();
    std::uint8_t* memory = nullptr;
    CHECK(cudaMallocAsync(&memory, 1000, nullptr) == cudaSuccess);
    CHECK(reinterpret_cast<std::uintptr_t>(memory) % 256 == 0);
    CHECK(memory[0] == 0xff);
    CHECK(memory[999] == 0xff);
    CHECK(emulation::is_device_memory(memory, 1000));
    CHECK(emulation::is_device_memory(memory + 999, 1));
    CHECK_FALSE(emulation::is_device_memory(memory, 1001));
    CHECK(emulation::counts().live_allocations == before.live_allocations + 1);
    CHECK(emulation::counts().live_bytes == before.live_bytes + 1000);
    CHECK(emulation::counts().allocations == 1);
    std::size_t free = 0;
    std::size_t total = 0;
    CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess);
    CHECK(total - free == before.live_bytes + 1000);
    emulation::set_memory(before.live_bytes + 1500);
    void* more = nullptr;
    CHECK(cudaMalloc(&more, 501) == cudaErrorMemoryAllocation);
    CHECK(more == nullptr);
    CHECK(cudaMalloc(&more, 500) == cudaSuccess);
    CHECK(cudaFree(more) == cudaSuccess);
    CHECK(cudaFree(more) == cudaErrorInvalidValue);
    CHECK(cudaFreeAsync(memory + 1, nullptr) == cudaErrorInvalidValue);
    CHECK(cudaFreeAsync(memory, nullptr) == cudaSuccess);
    CHECK(cudaFreeHost(&free) == cudaErrorInvalidValue);
    CHECK(emulation::counts().live_allocations == before.live_allocations);
    emulation::reset();
}

TEST_CASE("Copies say where their memory is, and stay in it") {
    const DeviceBuffer<int> a(std::vector<int>{1, 2, 3, 4, 5, 6});
    const DeviceBuffer<int> b(6);
    std::vector<int> host(6);
    CHECK(cudaMemcpyAsync(b.data(), a.data(), 24, cudaMemcpyDeviceToDevice) == cudaSuccess);
    CHECK(b.values() == std::vector<int>{1, 2, 3, 4, 5, 6});
    CHECK(cudaMemcpyAsync(host.data(), a.data() + 4, 8, cudaMemcpyDefault) == cudaSuccess);
    CHECK(host[1] == 6);
    CHECK(cudaMemcpyAsync(host.data(), a.data(), 24, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpyAsync(host.data(), a.data(), 24, cudaMemcpyHostToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemcpyAsync(host.data(), a.data() + 1, 24, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemcpyAsync(a.data(), a.data() + 1, 8, cudaMemcpyDeviceToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpyAsync(nullptr, a.data(), 8, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemcpyAsync(host.data(), a.data(), 8, cudaMemcpyKind(7)) == cudaErrorInvalidMemcpyDirection);
    CHECK(cudaMemsetAsync(b.data(), 0, 28) == cudaErrorInvalidValue);
    CHECK(cudaMemsetAsync(b.data(), 0, 24) == cudaSuccess);
    // Two columns of a [2, 3] to the last ones of b [2, 3].
    CHECK(cudaMemcpy2DAsync(b.data() + 1, 12, a.data(), 12, 8, 2, cudaMemcpyDeviceToDevice) == cudaSuccess);
    CHECK(b.values() == std::vector<int>{0, 1, 2, 0, 4, 5});
    CHECK(cudaMemcpy2DAsync(b.data() + 1, 12, a.data(), 12, 12, 2, cudaMemcpyDeviceToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy2DAsync(b.data(), 8, a.data(), 12, 12, 2, cudaMemcpyDeviceToDevice) == cudaErrorInvalidPitchValue);
}

TEST_CASE("Launches keep to the limits of a GPU") {
    emulation::reset();
    CHECK(try_launch(1, 1024) == cudaSuccess);
    CHECK(try_launch(1, 1025) == cudaErrorInvalidConfiguration);
    CHECK(try_launch(1, dim3(32, 33)) == cudaErrorInvalidConfiguration);
    CHECK(try_launch(1, dim3(1, 1, 65)) == cudaErrorInvalidConfiguration);
    CHECK(try_launch(0, 1) == cudaErrorInvalidConfiguration);
    CHECK(try_launch(dim3(1, 65536), 1) == cudaErrorInvalidConfiguration);
    CHECK(try_launch(1, 1, 48 << 10) == cudaSuccess);
    CHECK(try_launch(1, 1, (48 << 10) + 1) == cudaErrorInvalidValue);
    CHECK(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10) ==
          cudaErrorInvalidValue);
    CHECK(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10) == cudaSuccess);
    CHECK(try_launch(1, 1, 227 << 10) == cudaSuccess);
    CHECK(try_launch(1, 1, (227 << 10) + 1) == cudaErrorInvalidValue);
    CHECK(emulation::counts().launches == 3);
    int blocks = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, 256, 0) == cudaSuccess);
    CHECK(blocks == 8);
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, 256, 100 << 10) == cudaSuccess);
    CHECK(blocks == 2);
}

TEST_CASE("The call that a test names fails once, and releases never do") {
    emulation::reset();
    void* memory = nullptr;
    emulation::fail_call(2, cudaErrorLaunchFailure);
    CHECK(cudaMalloc(&memory, 1) == cudaSuccess);
    CHECK(cudaFree(memory) == cudaSuccess);
    CHECK(try_launch(1, 1) == cudaErrorLaunchFailure);
    CHECK(try_launch(1, 1) == cudaSuccess);
    CHECK(emulation::counts().calls == 3);
    CHECK(emulation::counts().launches == 1);
    emulation::reset();
}

TEST_CASE("Threads that launch at the same time take turns") {
    const DeviceBuffer<unsigned> x(std::vector<unsigned>{0});
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            for (int j = 0; j < 50; ++j) launch(count_up, 2, 33, 0, nullptr, x.data());
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(x.values()[0] == 4 * 50 * 2 * 33);
}

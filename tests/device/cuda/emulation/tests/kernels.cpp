#include "device_buffer.hpp"
#include "emulation.hpp"

#include <mistral/device/cuda/kernels/launch.cuh>

#include <doctest/doctest.h>

#include <cstddef>
#include <numeric>
#include <vector>

// What a kernel's threads do together.

namespace mistral::cuda {

__global__ void read_dynamic_memory(int index, int* x) {
    wait_for_previous();
    alignas(16) extern __shared__ std::byte dynamic_shared[];
    *x = reinterpret_cast<const int*>(dynamic_shared)[index];
}

alignas(16) extern __shared__ std::byte dynamic_shared[];

namespace {

template <class T>
__device__ __forceinline__ T sum_of_warp(T value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

template <class T>
__global__ void __launch_bounds__(256) sum_rows(const T* __restrict__ x, int cols, T* __restrict__ sums) {
    wait_for_previous();
    static __shared__ T of_warps[32];
    T sum = 0;
    for (int i = int(threadIdx.x); i < cols; i += int(blockDim.x)) sum += x[int(blockIdx.x) * cols + i];
    sum = sum_of_warp(sum);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    sum = sum_of_warp(threadIdx.x < blockDim.x / 32 ? of_warps[threadIdx.x] : T(0));
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <bool with_barriers>
__global__ void reverse(int* x) {
    wait_for_previous();
    static __shared__ int tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    if (with_barriers) __syncthreads();
    x[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

template <bool with_barriers>
__global__ void reverse_in_warps(int* x) {
    wait_for_previous();
    static __shared__ int tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    if (with_barriers) __syncwarp();
    x[threadIdx.x] = tile[threadIdx.x ^ 31];
}

__global__ void reverse_in_dynamic_memory(int* x) {
    wait_for_previous();
    int* tile = reinterpret_cast<int*>(dynamic_shared);
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

__global__ void some_return_early(int* x) {
    wait_for_previous();
    if (threadIdx.x % 3 == 0) return;
    __syncthreads();
    atomicAdd(x, 1);
    __syncthreads();
    if (threadIdx.x == 1) *x *= 2;
}

__global__ void last_of_all(int* x, unsigned* ticket, int* sum) {
    wait_for_previous();
    x[blockIdx.x] = int(blockIdx.x);
    __threadfence();
    if (atomicInc(ticket, gridDim.x - 1) != gridDim.x - 1) return;
    for (unsigned i = 0; i < gridDim.x; ++i) *sum += x[i];
}

__global__ void indices(uint3* threads, uint3* blocks) {
    wait_for_previous();
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    threads[i] = threadIdx;
    blocks[i] = blockIdx;
}

__global__ void all_but_one_at_the_barrier() {
    wait_for_previous();
    if (threadIdx.x == 32)
        __syncwarp(3);
    else
        __syncthreads();
}

__global__ void a_lane_is_missing(int* x) {
    wait_for_previous();
    if (threadIdx.x == 7)
        __syncthreads();
    else
        *x = __shfl_sync(0xffffffffu, *x, 0);
}

__global__ void outside_the_mask(int* x) {
    wait_for_previous();
    *x = __shfl_sync(0xfu, *x, 0);
}

__global__ void different_functions(int* x) {
    wait_for_previous();
    if (threadIdx.x % 2 == 0)
        *x = __shfl_sync(0xffffffffu, *x, 0);
    else
        *x = __any_sync(0xffffffffu, *x);
}

__global__ void one_does_not_wait(int* x) {
    if (threadIdx.x != 3) wait_for_previous();
    if (threadIdx.x == 0) *x += 1;
}

__global__ void counts_at_barriers(int* x) {
    wait_for_previous();
    const int count = __syncthreads_count(threadIdx.x < 5);
    const int any = __syncthreads_or(threadIdx.x == 3);
    const int all = __syncthreads_and(threadIdx.x != 3);
    if (threadIdx.x == blockDim.x - 1) *x = count * 100 + any * 10 + all;
}

}  // namespace
}  // namespace mistral::cuda

using namespace mistral::cuda;

namespace {

const std::vector<std::uint64_t> seeds{0, 1, 2, 3, 4, 5};

std::vector<int> iota(int n) {
    std::vector<int> values(static_cast<std::size_t>(n));
    std::iota(values.begin(), values.end(), 0);
    return values;
}

template <class T>
void check_sums() {
    const int rows = 5;
    const int cols = 1000;
    std::vector<T> x;
    std::vector<T> expected(rows, T(0));
    for (int row = 0; row < rows; ++row)
        for (int col = 0; col < cols; ++col) {
            x.push_back(T((row * 7 + col) % 11));
            expected[std::size_t(row)] += x.back();
        }
    const DeviceBuffer<T> device_x(x);
    const DeviceBuffer<T> sums(rows);
    for (const auto seed : seeds) {
        emulation::set_seed(seed);
        launch(sum_rows<T>, rows, 256, 0, nullptr, device_x.data(), cols, sums.data());
        CHECK(sums.values() == expected);
    }
    emulation::reset();
}

// In how many orders of threads a kernel reverses what it is given, in groups of so many.
template <class Kernel>
std::size_t seeds_that_reverse(Kernel kernel, int group, std::size_t shared_bytes = 0) {
    std::size_t right = 0;
    for (const auto seed : seeds) {
        emulation::set_seed(seed);
        const DeviceBuffer<int> x(iota(128));
        launch(kernel, 1, 128, shared_bytes, nullptr, x.data());
        bool reversed = true;
        for (int i = 0; i < 128; ++i)
            reversed = reversed && x.values()[std::size_t(i)] == i / group * group + group - 1 - i % group;
        right += reversed ? 1 : 0;
    }
    emulation::reset();
    return right;
}

}  // namespace

TEST_CASE("A block sums by shuffles and shared memory, in any order of threads") {
    check_sums<float>();
    check_sums<double>();
    check_sums<int>();
    check_sums<long long>();
}

TEST_CASE("What lacks a barrier is wrong in some order of threads") {
    CHECK(seeds_that_reverse(reverse<true>, 128) == seeds.size());
    CHECK(seeds_that_reverse(reverse<false>, 128) == 0);
    CHECK(seeds_that_reverse(reverse_in_warps<true>, 32) == seeds.size());
    CHECK(seeds_that_reverse(reverse_in_warps<false>, 32) == 0);
}

TEST_CASE("Dynamic shared memory has the size of the launch and starts as bytes of 255") {
    CHECK(seeds_that_reverse(reverse_in_dynamic_memory, 128, 128 * sizeof(int)) == seeds.size());
    const DeviceBuffer<int> x(1);
    launch(read_dynamic_memory, 1, 1, 4, nullptr, 0, x.data());
    CHECK(x.values()[0] == -1);
}

TEST_CASE("Threads that have returned are not waited for at barriers") {
    for (const auto seed : seeds) {
        emulation::set_seed(seed);
        const DeviceBuffer<int> x(std::vector<int>{0});
        launch(some_return_early, 1, 100, 0, nullptr, x.data());
        CHECK(x.values()[0] == 2 * 66);
    }
    emulation::reset();
}

TEST_CASE("The last block to take a ticket sees what all have written") {
    for (const auto seed : seeds) {
        emulation::set_seed(seed);
        const DeviceBuffer<int> x(std::vector<int>(10, 0));
        const DeviceBuffer<unsigned> ticket(std::vector<unsigned>{0});
        const DeviceBuffer<int> sum(std::vector<int>{0});
        launch(last_of_all, 10, 1, 0, nullptr, x.data(), ticket.data(), sum.data());
        CHECK(sum.values()[0] == 45);
        CHECK(ticket.values()[0] == 0);
    }
    emulation::reset();
}

TEST_CASE("Threads and blocks have indices in three dimensions, x first") {
    const DeviceBuffer<uint3> threads(24 * 24);
    const DeviceBuffer<uint3> blocks(24 * 24);
    launch(indices, dim3(2, 3, 4), dim3(4, 3, 2), 0, nullptr, threads.data(), blocks.data());
    bool right = true;
    for (unsigned block = 0; block < 24; ++block)
        for (unsigned thread = 0; thread < 24; ++thread) {
            const uint3 t = threads.values()[block * 24 + thread];
            const uint3 b = blocks.values()[block * 24 + thread];
            right = right && t.x == thread % 4 && t.y == thread / 4 % 3 && t.z == thread / 12;
            right = right && b.x == block % 2 && b.y == block / 2 % 3 && b.z == block / 6;
        }
    CHECK(right);
}

TEST_CASE("Barriers count the threads in which a predicate holds") {
    const DeviceBuffer<int> x(1);
    launch(counts_at_barriers, 1, 64, 0, nullptr, x.data());
    CHECK(x.values()[0] == 510);
}

TEST_CASE("What would wait for ever, or is undefined on a GPU, is an error that says where") {
    const DeviceBuffer<int> x(std::vector<int>{0});
    CHECK_THROWS_WITH_AS(launch(all_but_one_at_the_barrier, 1, 34, 0, nullptr),
                         "block (0, 0, 0) cannot go on: of 34 threads that have not returned, 33 wait at "
                         "__syncthreads; in warp 1 __syncwarp of the lanes 0x3 has been called by 0x1",
                         emulation::KernelError);
    CHECK_THROWS_WITH_AS(launch(a_lane_is_missing, 1, 32, 0, nullptr, x.data()),
                         "block (0, 0, 0) cannot go on: of 32 threads that have not returned, 1 wait at "
                         "__syncthreads; in warp 0 __shfl_sync of the lanes 0xffffffff has been called by 0xffffff7f",
                         emulation::KernelError);
    CHECK_THROWS_WITH_AS(launch(outside_the_mask, 1, 5, 0, nullptr, x.data()),
                         "block (0, 0, 0), thread (4, 0, 0): __shfl_sync is called by a lane that is not in its mask",
                         emulation::KernelError);
    CHECK_THROWS_WITH_AS(launch(different_functions, 1, 32, 0, nullptr, x.data()),
                         "block (0, 0, 0), thread (1, 0, 0): lanes of a warp call __shfl_sync and __any_sync at once",
                         emulation::KernelError);
    check_sums<float>();
}

TEST_CASE("A thread that does not wait for earlier kernels is an error where its kernel may begin early") {
    const DeviceBuffer<int> x(std::vector<int>{0});
    CHECK_THROWS_WITH_AS(launch(one_does_not_wait, 1, 8, 0, nullptr, x.data()),
                         "block (0, 0, 0), thread (3, 0, 0): returns without cudaGridDependencySynchronize, from a "
                         "kernel that may begin early",
                         emulation::KernelError);
    emulation::set_attribute(cudaDevAttrComputeCapabilityMajor, 8);
    launch(one_does_not_wait, 1, 8, 0, nullptr, x.data());
    CHECK(x.values().back() > 0);
    emulation::reset();
}

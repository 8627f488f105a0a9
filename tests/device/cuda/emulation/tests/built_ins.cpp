#include "device_buffer.hpp"
#include "emulation.hpp"

#include <mistral/device/cuda/kernels/launch.cuh>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

// Functions that CUDA's C++ has and C++ has not. Expected values are from CUDA's documentation, worked out by hand.

namespace mistral::cuda {
namespace {

enum Shuffle { to_all, up, down, across };

__global__ void shuffle(Shuffle kind, int operand, int width, int* x) {
    wait_for_previous();
    const int value = x[threadIdx.x];
    int& out = x[threadIdx.x];
    if (kind == to_all) out = __shfl_sync(0xffffffffu, value, operand, width);
    if (kind == up) out = __shfl_up_sync(0xffffffffu, value, unsigned(operand), width);
    if (kind == down) out = __shfl_down_sync(0xffffffffu, value, unsigned(operand), width);
    if (kind == across) out = __shfl_xor_sync(0xffffffffu, value, operand, width);
}

__global__ void votes(unsigned* x) {
    wait_for_previous();
    const unsigned even = __ballot_sync(0xffffffffu, threadIdx.x % 2 == 0);
    // Each half of the warp on its own, and the upper half first.
    const unsigned half = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
    const int any = __any_sync(half, threadIdx.x == 20);
    const int all = __all_sync(half, threadIdx.x != 20);
    const unsigned sum = __reduce_add_sync(half, threadIdx.x);
    const int least = __reduce_min_sync(half, -int(threadIdx.x));
    x[threadIdx.x] = even == 0x55555555u ? unsigned(any * 10 + all) + sum * 100 + unsigned(-least) * 100'000 : 0;
}

__global__ void exchange_in_warp(int* x) {
    wait_for_previous();
    const auto values = emulation::exchange(int2{int(threadIdx.x), int(threadIdx.x) * 2});
    int sum = 0;
    for (const int2& value : values) sum += value.y - value.x;
    x[threadIdx.x] = sum;
}

// Each thread doubles the next one's values, of which two stages are under way at a time.
template <bool waits, bool barriers>
__global__ void copy_ahead(const int4* from, int stages, int4* to) {
    wait_for_previous();
    static __shared__ int4 buffers[2][32];
    const auto fetch = [&](int stage) {
        if (stage < stages)
            __pipeline_memcpy_async(&buffers[stage % 2][threadIdx.x], from + stage * 32 + threadIdx.x, 16);
        __pipeline_commit();
    };
    fetch(0);
    for (int stage = 0; stage < stages; ++stage) {
        fetch(stage + 1);
        if (waits) __pipeline_wait_prior(1);
        __syncthreads();
        int4 value = buffers[stage % 2][(threadIdx.x + 1) % 32];
        value.w *= 2;
        to[stage * 32 + int(threadIdx.x)] = value;
        if (barriers) __syncthreads();
    }
}

__global__ void odd_address(const char* from) {
    wait_for_previous();
    alignas(16) static __shared__ char to[16];
    __pipeline_memcpy_async(to, from + 1, 4);
}

}  // namespace
}  // namespace mistral::cuda

using namespace mistral::cuda;

namespace {

std::vector<int> shuffled(Shuffle kind, int operand, int width) {
    std::vector<int> lanes(32);
    for (int lane = 0; lane < 32; ++lane) lanes[std::size_t(lane)] = lane;
    const DeviceBuffer<int> x(lanes);
    launch(shuffle, 1, 32, 0, nullptr, kind, operand, width, x.data());
    return x.values();
}

template <class Source>
std::vector<int> lanes_of(Source source) {
    std::vector<int> lanes;
    for (int lane = 0; lane < 32; ++lane) lanes.push_back(source(lane));
    return lanes;
}

// In how many orders the copies of `copy_ahead` arrive.
template <class Kernel>
int seeds_that_copy(Kernel kernel) {
    const int stages = 4;
    std::vector<int> values;
    for (int i = 0; i < stages * 32 * 4; ++i) values.push_back(i);
    const DeviceBuffer<int> from(values);
    int right = 0;
    for (const std::uint64_t seed : {0u, 1u, 2u, 3u}) {
        emulation::set_seed(seed);
        const DeviceBuffer<int> to(values.size());
        launch(kernel, 1, 32, 0, nullptr, reinterpret_cast<const int4*>(from.data()), stages,
               reinterpret_cast<int4*>(to.data()));
        bool all = true;
        for (int i = 0; i < stages * 32; ++i) {
            const int source = i / 32 * 32 + (i + 1) % 32;
            all = all && to.values()[std::size_t(i * 4)] == source * 4;
            all = all && to.values()[std::size_t(i * 4 + 3)] == 2 * (source * 4 + 3);
        }
        right += all ? 1 : 0;
    }
    emulation::reset();
    return right;
}

}  // namespace

TEST_CASE("Shuffles read other lanes within groups of the width") {
    CHECK(shuffled(to_all, 5, 32) == lanes_of([](int) { return 5; }));
    CHECK(shuffled(to_all, 37, 32) == lanes_of([](int) { return 5; }));
    CHECK(shuffled(to_all, 5, 4) == lanes_of([](int lane) { return lane / 4 * 4 + 1; }));
    CHECK(shuffled(up, 3, 32) == lanes_of([](int lane) { return lane < 3 ? lane : lane - 3; }));
    CHECK(shuffled(up, 3, 8) == lanes_of([](int lane) { return lane % 8 < 3 ? lane : lane - 3; }));
    CHECK(shuffled(down, 3, 32) == lanes_of([](int lane) { return lane + 3 > 31 ? lane : lane + 3; }));
    CHECK(shuffled(down, 3, 8) == lanes_of([](int lane) { return lane % 8 + 3 > 7 ? lane : lane + 3; }));
    CHECK(shuffled(across, 16, 32) == lanes_of([](int lane) { return lane ^ 16; }));
    CHECK(shuffled(across, 3, 4) == lanes_of([](int lane) { return lane ^ 3; }));
    CHECK(shuffled(across, 16, 16) == lanes_of([](int lane) { return lane < 16 ? lane : lane - 16; }));
    CHECK_THROWS_AS(shuffled(across, 1, 5), emulation::KernelError);
}

TEST_CASE("Lanes vote, in parts of a warp too") {
    for (const std::uint64_t seed : {0u, 1u, 2u}) {
        emulation::set_seed(seed);
        const DeviceBuffer<unsigned> x(32);
        launch(votes, 1, 32, 0, nullptr, x.data());
        CHECK(x.values()[0] == 15'12001);
        CHECK(x.values()[31] == 31'37610);
    }
    emulation::reset();
}

TEST_CASE("A warp exchanges values") {
    const DeviceBuffer<int> x(64);
    launch(exchange_in_warp, 1, 64, 0, nullptr, x.data());
    CHECK(x.values()[0] == 31 * 16);
    CHECK(x.values()[63] == 31 * 16 + 32 * 32);
}

TEST_CASE("Copies ahead of use need waits and barriers") {
    CHECK(seeds_that_copy(copy_ahead<true, true>) == 4);
    CHECK(seeds_that_copy(copy_ahead<false, true>) == 2);
    CHECK(seeds_that_copy(copy_ahead<true, false>) < 4);
    const DeviceBuffer<char> x(16);
    CHECK_THROWS_WITH_AS(launch(odd_address, 1, 1, 0, nullptr, x.data()),
                         "block (0, 0, 0), thread (0, 0, 0): an asynchronous copy is not aligned to its size",
                         emulation::KernelError);
}

TEST_CASE("Integers: bytes permuted, products of bytes") {
    CHECK(__byte_perm(0x33221100, 0x77665544, 0x7531) == 0x77553311);
    CHECK(__byte_perm(0x33228100, 0x77665544, 0x00f9) == 0x000000ff);
    CHECK(__dp4a(0x01ff80'7f, 0x02030104, 10) == 10 + 2 - 3 - 128 + 127 * 4);
    CHECK(__dp4a(0x01ff807fu, 0x02030104u, 10u) == 10u + 2 + 255 * 3 + 128 + 127 * 4);
    CHECK(__dp4a(make_char4(1, -1, 2, -128), make_char4(3, 4, 5, -128), 0) == 3 - 4 + 10 + 16384);
    CHECK(__popc(0xf0f0u) == 8);
    CHECK(__clz(1) == 31);
    CHECK(__ffs(8) == 4);
    CHECK(__ffs(0) == 0);
}

TEST_CASE("Short floats round to nearest, ties to even") {
    CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(1.0f)) == 0x3f80);
    CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(__uint_as_float(0x3f808000))) == 0x3f80);
    CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(__uint_as_float(0x3f818000))) == 0x3f82);
    CHECK(__bfloat162float(__ushort_as_bfloat16(0xc040)) == -3);
    CHECK(__half_as_ushort(__float2half_rn(1.0f)) == 0x3c00);
    CHECK(__half_as_ushort(__float2half_rn(1 + 1 / 2048.0f)) == 0x3c00);
    CHECK(__half_as_ushort(__float2half_rn(1 + 3 / 2048.0f)) == 0x3c02);
    CHECK(__half2float(__ushort_as_half(0x0001)) == 1 / 16777216.0f);
    const float2 pair = __bfloat1622float2(__floats2bfloat162_rn(1, -2));
    CHECK(pair.x == 1);
    CHECK(pair.y == -2);
    const float2 halves = __half22float2(__floats2half2_rn(3, -4));
    CHECK(halves.x == 3);
    CHECK(halves.y == -4);
}

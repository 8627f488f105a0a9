#pragma once

#include "emulation.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

/// What the functions of the runtime share.
namespace emulation {

using Work = std::function<void()>;

/// What streams that capture together have recorded, in an order in which it may run.
struct Capture {
    std::vector<Work> work;
    cudaStream_t origin = nullptr;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    std::thread::id thread;
    bool invalidated = false;
};

}  // namespace emulation

struct CUstream_st {
    std::shared_ptr<emulation::Capture> capture;  // while it captures
    std::size_t submitted = 0;                    // while it captures: so many pieces of work
    std::size_t joined = 0;                       // of which so many are before what the origin does next
};

struct CUevent_st {
    std::shared_ptr<emulation::Capture> capture;  // in which it was recorded last
    cudaStream_t stream = nullptr;
    std::size_t position = 0;
    bool timed = true;
    double milliseconds = -1;  // when it was recorded, on the device's clock
};

struct CUgraph_st {
    std::vector<emulation::Work> work;
};

struct CUgraphExec_st {
    std::shared_ptr<const std::vector<emulation::Work>> work;
};

namespace emulation {

/// Objects by their handles, for which CUDA has pointers.
template <class T>
class Handles {
  public:
    T* create() {
        auto object = std::make_unique<T>();
        T* handle = object.get();
        live_.emplace(handle, std::move(object));
        return handle;
    }
    bool destroy(T* handle) { return live_.erase(handle) == 1; }
    [[nodiscard]] bool contains(T* handle) const { return live_.find(handle) != live_.end(); }
    [[nodiscard]] std::size_t size() const { return live_.size(); }
    [[nodiscard]] auto begin() const { return live_.begin(); }
    [[nodiscard]] auto end() const { return live_.end(); }

  private:
    std::map<T*, std::unique_ptr<T>> live_;
};

/// Heap memory by its addresses.
class Allocations {
  public:
    /// Aligned to 256 bytes and full of bits of 1. Null where there is no more.
    std::byte* allocate(std::size_t bytes);
    bool free(void* pointer);
    /// Whether all these bytes lie in one allocation.
    [[nodiscard]] bool contain(const void* pointer, std::size_t bytes) const;
    [[nodiscard]] bool touch(const void* pointer, std::size_t bytes) const;
    [[nodiscard]] std::size_t size() const { return sizes_.size(); }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }

  private:
    std::map<std::uintptr_t, std::size_t> sizes_;
    std::size_t bytes_ = 0;
};

/// What tests can set.
struct Settings {
    int devices = 1;
    std::map<cudaDeviceAttr, int> attributes{{cudaDevAttrMaxThreadsPerBlock, 1024},
                                             {cudaDevAttrMaxSharedMemoryPerBlock, 48 << 10},
                                             {cudaDevAttrWarpSize, 32},
                                             {cudaDevAttrMultiProcessorCount, 4},
                                             {cudaDevAttrL2CacheSize, 50 << 20},
                                             {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
                                             {cudaDevAttrComputeCapabilityMajor, 9},
                                             {cudaDevAttrComputeCapabilityMinor, 0},
                                             {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 << 10},
                                             {cudaDevAttrMaxSharedMemoryPerBlockOptin, 227 << 10},
                                             {cudaDevAttrMemoryPoolsSupported, 1}};
    std::size_t memory = std::size_t(16) << 30;
    std::uint64_t seed = 0;
    std::vector<double> matmul_milliseconds = std::vector<double>(matmul_algorithms, 1.0);
    std::size_t calls_to_failure = 0;  // 0: none fails
    cudaError_t failure = cudaSuccess;
};

struct State {
    std::mutex mutex;
    Settings settings;
    Counts counts;
    Allocations device_memory;
    Allocations host_memory;
    Handles<CUstream_st> streams;
    Handles<CUevent_st> events;
    Handles<CUgraph_st> graphs;
    Handles<CUgraphExec_st> executables;
    CUstream_st default_stream;
    std::size_t live_cublas_handles = 0;
    double milliseconds = 0;  // of the device's clock, on which every piece of work takes some time
    std::map<const void*, int> dynamic_shared_limits;  // where kernels have been given others

    [[nodiscard]] CUstream_st* find(cudaStream_t stream) {
        if (stream == nullptr) return &default_stream;
        return streams.contains(stream) ? stream : nullptr;
    }
};
State& state();

/// Keeps an error for cudaGetLastError.
cudaError_t remember(cudaError_t error);

/// Whether a call that may fail is to fail: because there is no device, or because a test wants it.
cudaError_t admit(State& state);

/// Runs work of a stream, or records it where the stream captures.
cudaError_t put(State& state, cudaStream_t stream, Work work);

/// What may not be called while a stream captures spoils the capture.
cudaError_t refuse_while_capturing(State& state);

/// A function of the runtime that may fail.
template <class Body>
cudaError_t call(Body body) {
    const std::lock_guard lock(state().mutex);
    const cudaError_t admitted = admit(state());
    return remember(admitted == cudaSuccess ? body(state()) : admitted);
}

/// One that frees or destroys, and is never made to fail.
template <class Body>
cudaError_t release(Body body) {
    const std::lock_guard lock(state().mutex);
    return remember(body(state()));
}

}  // namespace emulation

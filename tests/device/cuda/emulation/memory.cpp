#include "state.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

namespace emulation {

std::byte* Allocations::allocate(std::size_t bytes) {
    // Of just so many bytes, that AddressSanitizer sees the end.
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes) != 0) return nullptr;
    std::memset(memory, 0xff, bytes);
    sizes_.emplace(reinterpret_cast<std::uintptr_t>(memory), bytes);
    bytes_ += bytes;
    return static_cast<std::byte*>(memory);
}

bool Allocations::free(void* pointer) {
    const auto found = sizes_.find(reinterpret_cast<std::uintptr_t>(pointer));
    if (found == sizes_.end()) return false;
    bytes_ -= found->second;
    sizes_.erase(found);
    std::free(pointer);
    return true;
}

bool Allocations::contain(const void* pointer, std::size_t bytes) const {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    const auto after = sizes_.upper_bound(address);
    if (after == sizes_.begin()) return false;
    const auto& [start, size] = *std::prev(after);
    return address - start <= size && bytes <= size - (address - start);
}

bool Allocations::touch(const void* pointer, std::size_t bytes) const {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    const auto after = sizes_.lower_bound(address + bytes);
    if (bytes == 0 || after == sizes_.begin()) return false;
    const auto& [start, size] = *std::prev(after);
    return address < start + size;
}

bool is_device_memory(const void* pointer, std::size_t bytes) {
    const std::lock_guard lock(state().mutex);
    return state().device_memory.contain(pointer, bytes);
}

namespace {

cudaError_t allocate(State& s, void** pointer, std::size_t bytes) {
    ++s.counts.allocations;
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    if (bytes > s.settings.memory || s.device_memory.bytes() > s.settings.memory - bytes)
        return cudaErrorMemoryAllocation;
    *pointer = s.device_memory.allocate(bytes);
    return *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

// One side of a copy: all in the device's memory, or none of it.
cudaError_t check_side(const State& s, const void* pointer, std::size_t bytes, bool may_be_device, bool may_be_host) {
    if (pointer == nullptr) return cudaErrorInvalidValue;
    if (s.device_memory.contain(pointer, bytes)) return may_be_device ? cudaSuccess : cudaErrorInvalidValue;
    if (s.device_memory.touch(pointer, bytes)) return cudaErrorInvalidValue;
    return may_be_host ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t check_copy(const State& s, void* to, std::size_t to_bytes, const void* from, std::size_t from_bytes,
                       cudaMemcpyKind kind) {
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
    // Which CUDA does not define, and does not find.
    const auto to_start = reinterpret_cast<std::uintptr_t>(to);
    const auto from_start = reinterpret_cast<std::uintptr_t>(from);
    if (to_start < from_start + from_bytes && from_start < to_start + to_bytes) return cudaErrorInvalidValue;
    const bool any = kind == cudaMemcpyDefault;
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    const cudaError_t first = check_side(s, to, to_bytes, any || to_device, any || !to_device);
    return first != cudaSuccess ? first : check_side(s, from, from_bytes, any || from_device, any || !from_device);
}

cudaError_t copy(State& s, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (bytes == 0) return s.find(stream) == nullptr ? cudaErrorInvalidResourceHandle : cudaSuccess;
    if (const cudaError_t error = check_copy(s, to, bytes, from, bytes, kind); error != cudaSuccess) return error;
    return put(s, stream, [=] { std::memcpy(to, from, bytes); });
}

cudaError_t fill(State& s, void* to, int value, std::size_t bytes, cudaStream_t stream) {
    if (bytes == 0) return s.find(stream) == nullptr ? cudaErrorInvalidResourceHandle : cudaSuccess;
    if (!s.device_memory.contain(to, bytes)) return cudaErrorInvalidValue;
    return put(s, stream, [=] { std::memset(to, value, bytes); });
}

}  // namespace
}  // namespace emulation

using namespace emulation;

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    return call([&](State& s) {
        *total = s.settings.memory;
        *free = s.settings.memory - std::min(s.settings.memory, s.device_memory.bytes());
        return cudaSuccess;
    });
}

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
    return call([&](State& s) {
        const cudaError_t error = refuse_while_capturing(s);
        return error != cudaSuccess ? error : allocate(s, pointer, bytes);
    });
}

// CUDA would make memory of the graph out of an allocation while a stream captures, which the library has no use for.
cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t stream) {
    return call([&](State& s) {
        const CUstream_st* found = s.find(stream);
        if (found == nullptr) return cudaErrorInvalidResourceHandle;
        if (found->capture) return cudaErrorStreamCaptureUnsupported;
        return allocate(s, pointer, bytes);
    });
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
    return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned flags) {
    return call([&](State& s) {
        if (const cudaError_t error = refuse_while_capturing(s); error != cudaSuccess) return error;
        if (flags > (cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined))
            return cudaErrorInvalidValue;
        ++s.counts.allocations;
        *pointer = bytes == 0 ? nullptr : s.host_memory.allocate(bytes);
        return *pointer == nullptr && bytes != 0 ? cudaErrorMemoryAllocation : cudaSuccess;
    });
}

cudaError_t cudaFree(void* pointer) {
    return release([&](State& s) {
        if (pointer == nullptr) return cudaSuccess;
        if (const cudaError_t error = refuse_while_capturing(s); error != cudaSuccess) return error;
        return s.device_memory.free(pointer) ? cudaSuccess : cudaErrorInvalidValue;
    });
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
    return release([&](State& s) {
        const CUstream_st* found = s.find(stream);
        if (found == nullptr) return cudaErrorInvalidResourceHandle;
        if (found->capture) return cudaErrorStreamCaptureUnsupported;
        return s.device_memory.free(pointer) ? cudaSuccess : cudaErrorInvalidValue;
    });
}

cudaError_t cudaFreeHost(void* pointer) {
    return release([&](State& s) {
        if (pointer == nullptr) return cudaSuccess;
        if (const cudaError_t error = refuse_while_capturing(s); error != cudaSuccess) return error;
        return s.host_memory.free(pointer) ? cudaSuccess : cudaErrorInvalidValue;
    });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    return call([&](State& s) {
        const cudaError_t error = refuse_while_capturing(s);
        return error != cudaSuccess ? error : copy(s, to, from, bytes, kind, nullptr);
    });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return call([&](State& s) { return copy(s, to, from, bytes, kind, stream); });
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    return call([&](State& s) {
        if (width > to_pitch || width > from_pitch) return cudaErrorInvalidPitchValue;
        if (width == 0 || height == 0) return copy(s, to, from, 0, kind, stream);
        const auto bytes = [&](std::size_t pitch) { return pitch * (height - 1) + width; };
        const cudaError_t error = check_copy(s, to, bytes(to_pitch), from, bytes(from_pitch), kind);
        if (error != cudaSuccess) return error;
        return put(s, stream, [=] {
            for (std::size_t row = 0; row < height; ++row)
                std::memcpy(static_cast<std::byte*>(to) + row * to_pitch,
                            static_cast<const std::byte*>(from) + row * from_pitch, width);
        });
    });
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
    return call([&](State& s) {
        const cudaError_t error = refuse_while_capturing(s);
        return error != cudaSuccess ? error : fill(s, to, value, bytes, nullptr);
    });
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
    return call([&](State& s) { return fill(s, to, value, bytes, stream); });
}

// One pool for all devices, which keeps nothing.
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
    return call([&](State& s) {
        if (device < 0 || device >= s.settings.devices) return cudaErrorInvalidDevice;
        *pool = reinterpret_cast<cudaMemPool_t>(&s.device_memory);
        return cudaSuccess;
    });
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
    return call([&](State& s) {
        const bool known = pool == reinterpret_cast<cudaMemPool_t>(&s.device_memory);
        return known && attribute == cudaMemPoolAttrReleaseThreshold && value != nullptr ? cudaSuccess
                                                                                         : cudaErrorInvalidValue;
    });
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, std::size_t) {
    return call([&](State& s) {
        return pool == reinterpret_cast<cudaMemPool_t>(&s.device_memory) ? cudaSuccess : cudaErrorInvalidValue;
    });
}

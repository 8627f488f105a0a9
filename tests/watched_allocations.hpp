#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

/// Replaces operator new of the program, to watch it and to let it fail. One file of a program may include it.
namespace watched {

/// Of all threads since the start, nothrow ones aside, and which of them fails.
inline std::atomic<long> allocations = 0;
inline std::atomic<long> failing_allocation = std::numeric_limits<long>::max();

/// Bytes that live, and the most since this was last set: of all threads, the peak only where one allocates at a time.
inline std::atomic<std::size_t> live_bytes = 0;
inline std::atomic<std::size_t> peak_bytes = 0;

// Clang's ThreadSanitizer has an operator new that cannot be replaced; nothing is counted then.
#if defined(__clang__) && defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MISTRAL_TEST_KEEPS_OPERATOR_NEW
#endif
#endif

#ifdef MISTRAL_TEST_KEEPS_OPERATOR_NEW
inline constexpr bool counts = false;
#else
inline constexpr bool counts = true;

/// Memory for an object, with its size before it, for the delete; null where there is none.
inline void* allocate(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) noexcept {
    void* const memory = std::aligned_alloc(alignment, (size + 2 * alignment - 1) / alignment * alignment);
    if (memory == nullptr) return nullptr;
    live_bytes += size;
    peak_bytes = std::max(peak_bytes.load(), live_bytes.load());
    auto* const object = static_cast<std::byte*>(memory) + alignment;
    std::memcpy(object - sizeof(size), &size, sizeof(size));
    return object;
}

inline void* allocate_or_throw(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) {
    void* const object = ++allocations == failing_allocation ? nullptr : allocate(size, alignment);
    if (object == nullptr) throw std::bad_alloc();
    return object;
}

// Called through a pointer, as GCC takes free() in an inlined operator delete for a mistake.
inline void (*volatile const free_memory)(void*) = std::free;

inline void release(void* object, std::size_t alignment = alignof(std::max_align_t)) noexcept {
    if (object == nullptr) return;
    std::size_t size = 0;
    std::memcpy(&size, static_cast<std::byte*>(object) - sizeof(size), sizeof(size));
    live_bytes -= size;
    free_memory(static_cast<std::byte*>(object) - alignment);
}

#endif

}  // namespace watched

#ifndef MISTRAL_TEST_KEEPS_OPERATOR_NEW

void* operator new(std::size_t size) {
    return watched::allocate_or_throw(size);
}
void* operator new[](std::size_t size) {
    return watched::allocate_or_throw(size);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
    return watched::allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
    return watched::allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return watched::allocate(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
    return watched::allocate(size);
}
void operator delete(void* object) noexcept {
    watched::release(object);
}
void operator delete[](void* object) noexcept {
    watched::release(object);
}
void operator delete(void* object, std::size_t) noexcept {
    watched::release(object);
}
void operator delete[](void* object, std::size_t) noexcept {
    watched::release(object);
}
void operator delete(void* object, std::align_val_t alignment) noexcept {
    watched::release(object, static_cast<std::size_t>(alignment));
}
void operator delete[](void* object, std::align_val_t alignment) noexcept {
    watched::release(object, static_cast<std::size_t>(alignment));
}
void operator delete(void* object, std::size_t, std::align_val_t alignment) noexcept {
    watched::release(object, static_cast<std::size_t>(alignment));
}
void operator delete[](void* object, std::size_t, std::align_val_t alignment) noexcept {
    watched::release(object, static_cast<std::size_t>(alignment));
}

#endif

#pragma once

#include "vector_types.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>

/// What the built-ins of kernels ask of the block that runs. Called from within kernels only.
namespace emulation {

inline constexpr unsigned warp_size = 32;
inline constexpr unsigned max_block_threads = 1024;
inline constexpr std::size_t max_dynamic_shared_bytes = std::size_t(227) << 10;

/// Of the thread that runs.
struct Position {
    uint3 thread, block;
    dim3 block_size, grid_size;
    unsigned lane;
};
extern Position position;

/// Throws KernelError with where the thread is before the message.
[[noreturn]] void kernel_error(const std::string& message);

/// Waits for all threads of the block that have not returned, and tells in how many the predicate holds.
unsigned barrier(bool predicate);

/// Copies from global to shared memory, now or when `wait_for_copies` says at the latest. A size of 0 after the first
/// `bytes` is filled with zeros.
void copy_to_shared(void* to, const void* from, std::size_t bytes, std::size_t zeros);
void commit_copies();
void wait_for_copies(std::size_t pending_commits);

/// One call of a warp function: its lanes give a value each, and read those of others once all have come.
struct Meeting {
    static constexpr std::size_t max_bytes = 256;

    const char* function = nullptr;
    unsigned mask = 0;
    unsigned arrived = 0;  // bits of lanes
    unsigned unread = 0;   // lanes that have not left it yet
    alignas(16) std::array<std::byte, warp_size * max_bytes> values;
};

/// Waits for all lanes in the mask that have not returned. Values of others are bits of 1.
Meeting& meet(const char* function, unsigned mask, const void* value, std::size_t bytes);
void leave(Meeting& meeting);

/// The values that the lanes of a warp exchange, while it lives.
template <class T>
class Exchange {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= Meeting::max_bytes);

  public:
    Exchange(const char* function, unsigned mask, const T& value) : meeting_(meet(function, mask, &value, sizeof(T))) {}
    ~Exchange() { leave(meeting_); }
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    [[nodiscard]] T operator[](unsigned lane) const {
        T value;
        std::memcpy(&value, meeting_.values.data() + lane * sizeof(T), sizeof(T));
        return value;
    }
    [[nodiscard]] unsigned lanes() const { return meeting_.arrived; }

  private:
    Meeting& meeting_;
};

/// Gives a value to the warp and returns those of all its lanes; all must call it together. For what the GPU computes
/// with a whole warp, such as products of matrices.
template <class T>
std::array<T, warp_size> exchange(const T& value, const char* function = "exchange") {
    const Exchange<T> exchanged(function, ~0u, value);
    std::array<T, warp_size> values;
    for (unsigned lane = 0; lane < warp_size; ++lane) values[lane] = exchanged[lane];
    return values;
}

/// What cudaGridDependencySynchronize waits for is done already. It is noted that the thread has waited; whether it did
/// so before it read what others wrote is not seen.
void wait_for_earlier_grids();

/// Runs a kernel's function once for each thread of the grid. Called by one thread of the system at a time. Where the
/// grid may begin early, a thread that returns without having waited for earlier ones is an error: those after it
/// would not wait for them either.
void run_grid(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes, std::uint64_t seed, bool begins_early,
              const std::function<void()>& thread);

}  // namespace emulation

#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/base/types.hpp>

#include <cstddef>

/// What is asked for before it is wanted: caches hold up arithmetic less where memory comes a few lines at a time.
namespace mistral::cpu {

inline constexpr Index cache_line = 64;  // bytes

/// Asks for the cache line of `memory`, which need not be mapped, as far as a core's first cache or its last, level 2.
template <int level = 2>
void prefetch([[maybe_unused]] const void* memory) {
#if defined(__GNUC__)
    __builtin_prefetch(memory, 0, 4 - level);
    asm volatile("");  // without it GCC takes functions that call this one for functions without effect
#endif
}

/// Pieces of memory of so many bytes each, so far apart.
struct MemoryPieces {
    const std::byte* first = nullptr;
    Index count = 0, bytes = 0, stride = 0;
};

/// Fetches pieces of memory in so many calls, a few lines each, while something else is computed.
class PieceFetch {
  public:
    PieceFetch(const MemoryPieces& pieces, Index calls)
        : left_(pieces), lines_per_call_(divide_up(pieces.count * divide_up(pieces.bytes, cache_line), calls)) {}

    void fetch_some() {
        for (Index i = 0; i < lines_per_call_ && left_.count > 0; ++i) {
            prefetch(left_.first + offset_);
            offset_ += cache_line;
            if (offset_ < left_.bytes) continue;
            offset_ = 0;
            left_.first += left_.stride;
            --left_.count;
        }
    }

  private:
    MemoryPieces left_;
    Index offset_ = 0;  // in the first one
    Index lines_per_call_;
};

}  // namespace mistral::cpu

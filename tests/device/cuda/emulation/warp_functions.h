#pragma once

#include "block.hpp"

#include <algorithm>
#include <bit>
#include <concepts>
#include <type_traits>

namespace emulation {

template <class T>
concept Shuffled = std::is_arithmetic_v<T> &&(sizeof(T) == 4 || sizeof(T) == 8);

/// The value of the lane that `source` names, given this lane's number and the first one of its group of `width` lanes.
template <class T, class Source>
T shuffle(const char* function, unsigned mask, T value, int width, Source source) {
    if (width < 1 || width > int(warp_size) || !std::has_single_bit(unsigned(width)))
        kernel_error("the width of a shuffle is no power of two up to 32");
    const Exchange<T> exchanged(function, mask, value);
    const unsigned lane = position.lane;
    return exchanged[source(lane, lane & ~(unsigned(width) - 1))];
}

inline unsigned ballot(const char* function, unsigned mask, bool predicate) {
    const Exchange<bool> exchanged(function, mask, predicate);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < warp_size; ++lane)
        if ((exchanged.lanes() >> lane & 1) != 0 && exchanged[lane]) bits |= 1u << lane;
    return bits;
}

template <class T, class Operation>
T reduce(const char* function, unsigned mask, T value, Operation operation) {
    const Exchange<T> exchanged(function, mask, value);
    T result = value;
    for (unsigned lane = 0; lane < warp_size; ++lane)
        if ((exchanged.lanes() >> lane & 1) != 0 && lane != position.lane) result = operation(result, exchanged[lane]);
    return result;
}

}  // namespace emulation

template <emulation::Shuffled T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return emulation::shuffle(__func__, mask, value, width, [&](unsigned, unsigned first) {
        return first | (unsigned(source) & (unsigned(width) - 1));
    });
}
template <emulation::Shuffled T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return emulation::shuffle(__func__, mask, value, width, [&](unsigned lane, unsigned first) {
        return lane - first >= delta ? lane - delta : lane;
    });
}
template <emulation::Shuffled T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return emulation::shuffle(__func__, mask, value, width, [&](unsigned lane, unsigned first) {
        return delta < first + unsigned(width) - lane ? lane + delta : lane;
    });
}
template <emulation::Shuffled T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
    return emulation::shuffle(__func__, mask, value, width, [&](unsigned lane, unsigned first) {
        const unsigned other = lane ^ (unsigned(lane_mask) & 31);
        return other < first + unsigned(width) ? other : lane;
    });
}

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emulation::leave(emulation::meet(__func__, mask, nullptr, 0));
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return emulation::ballot(__func__, mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
    return emulation::ballot(__func__, mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
    return emulation::ballot(__func__, mask, predicate == 0) == 0;
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
    return emulation::reduce(__func__, mask, value, [](unsigned a, unsigned b) { return a + b; });
}
inline int __reduce_add_sync(unsigned mask, int value) {
    return int(__reduce_add_sync(mask, unsigned(value)));
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
    return emulation::reduce(__func__, mask, value, [](unsigned a, unsigned b) { return std::max(a, b); });
}
inline int __reduce_max_sync(unsigned mask, int value) {
    return emulation::reduce(__func__, mask, value, [](int a, int b) { return std::max(a, b); });
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
    return emulation::reduce(__func__, mask, value, [](unsigned a, unsigned b) { return std::min(a, b); });
}
inline int __reduce_min_sync(unsigned mask, int value) {
    return emulation::reduce(__func__, mask, value, [](int a, int b) { return std::min(a, b); });
}

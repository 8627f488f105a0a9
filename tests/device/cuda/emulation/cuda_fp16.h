#pragma once

#include "vector_types.h"
#include "warp_functions.h"

#include <Eigen/Core>

#include <bit>

struct alignas(2) __half {
    unsigned short bits;

    __half() = default;
    __half(float x) : bits(std::bit_cast<unsigned short>(Eigen::half(x))) {}
    operator float() const { return static_cast<float>(std::bit_cast<Eigen::half>(bits)); }
};
struct alignas(4) __half2 {
    __half x, y;
};
using half = __half;
using half2 = __half2;

inline __half __float2half(float x) {
    return {x};
}
inline __half __float2half_rn(float x) {
    return {x};
}
inline float __half2float(__half x) {
    return x;
}
inline unsigned short __half_as_ushort(__half x) {
    return x.bits;
}
inline __half __ushort_as_half(unsigned short bits) {
    return std::bit_cast<__half>(bits);
}

inline __half2 make_half2(__half x, __half y) {
    return {x, y};
}
inline __half2 __halves2half2(__half x, __half y) {
    return {x, y};
}
inline __half2 __half2half2(__half x) {
    return {x, x};
}
inline __half2 __float2half2_rn(float x) {
    return {x, x};
}
inline __half2 __floats2half2_rn(float x, float y) {
    return {x, y};
}
inline __half2 __float22half2_rn(float2 x) {
    return {x.x, x.y};
}
inline float2 __half22float2(__half2 x) {
    return {x.x, x.y};
}
inline __half __low2half(__half2 x) {
    return x.x;
}
inline __half __high2half(__half2 x) {
    return x.y;
}
inline float __low2float(__half2 x) {
    return x.x;
}
inline float __high2float(__half2 x) {
    return x.y;
}

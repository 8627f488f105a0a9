#pragma once

#include "vector_types.h"
#include "warp_functions.h"

#include <Eigen/Core>

#include <bit>

struct alignas(2) __nv_bfloat16 {
    unsigned short bits;

    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : bits(std::bit_cast<unsigned short>(Eigen::bfloat16(x))) {}
    operator float() const { return std::bit_cast<float>(unsigned(bits) << 16); }
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16(float x) {
    return {x};
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    return {x};
}
inline float __bfloat162float(__nv_bfloat16 x) {
    return x;
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) {
    return x.bits;
}
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    return std::bit_cast<__nv_bfloat16>(bits);
}

inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) {
    return {x, y};
}
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) {
    return {x, y};
}
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) {
    return {x, x};
}
inline __nv_bfloat162 __float2bfloat162_rn(float x) {
    return {x, x};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {x, y};
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) {
    return {x.x, x.y};
}
inline float2 __bfloat1622float2(__nv_bfloat162 x) {
    return {x.x, x.y};
}
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 x) {
    return x.x;
}
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 x) {
    return x.y;
}
inline float __low2float(__nv_bfloat162 x) {
    return x.x;
}
inline float __high2float(__nv_bfloat162 x) {
    return x.y;
}

#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/types.hpp>
#include <mistral/scalar/scalar.hpp>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

/// How kernels see matrices, and how they load and store several elements at once.
namespace mistral::cuda {

/// The rows of a matrix, `stride` elements apart.
template <class T>
struct Rows {
    T* data = nullptr;
    Index stride = 0;

    Rows() = default;
    Rows(MatrixView<T> view) : data(view.data()), stride(view.stride()) {}
    __device__ __forceinline__ T* operator[](Index row) const { return data + row * stride; }
};

/// Whether every `width` elements of a row, counted from its first one, lie at a multiple of their size.
template <class T>
[[nodiscard]] bool is_aligned(MatrixView<T> view, Index width) {
    const auto address = reinterpret_cast<std::uintptr_t>(view.data());
    return address % (static_cast<std::uintptr_t>(width) * sizeof(T)) == 0 && view.stride() % width == 0;
}

/// Words of 32 bits that are loaded and stored by one instruction.
template <int count>
struct Words {
    unsigned words[count];
};

template <int count>
__device__ __forceinline__ Words<count> load_words(const void* from) {
    static_assert(count == 1 || count == 2 || count == 4);
    if constexpr (count == 1) {
        return {{*static_cast<const unsigned*>(from)}};
    } else if constexpr (count == 2) {
        const uint2 bits = *static_cast<const uint2*>(from);
        return {{bits.x, bits.y}};
    } else {
        const uint4 bits = *static_cast<const uint4*>(from);
        return {{bits.x, bits.y, bits.z, bits.w}};
    }
}

/// Loads what is read once: the caches give it up first.
__device__ __forceinline__ Words<4> load_once(const void* from) {
    const uint4 bits = __ldcs(static_cast<const uint4*>(from));
    return {{bits.x, bits.y, bits.z, bits.w}};
}

template <int count>
__device__ __forceinline__ void store_words(const Words<count>& from, void* to) {
    static_assert(count == 1 || count == 2 || count == 4);
    const auto& words = from.words;
    if constexpr (count == 1)
        *static_cast<unsigned*>(to) = words[0];
    else if constexpr (count == 2)
        *static_cast<uint2*>(to) = make_uint2(words[0], words[1]);
    else
        *static_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

/// The same bits as another type; CUDA's pairs are none that std::bit_cast takes.
template <class To, class From>
__device__ __forceinline__ To bits_as(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}

/// Elements of T in a word.
template <class T>
inline constexpr int per_word = static_cast<int>(4 / sizeof(T));

/// The elements of T in a word as floats, `to` [per_word].
template <class T>
__device__ __forceinline__ void widen(unsigned word, float* to) {
    if constexpr (std::same_as<T, float>) {
        *to = __uint_as_float(word);
    } else if constexpr (std::same_as<T, half>) {
        const float2 both = __half22float2(bits_as<__half2>(word));
        to[0] = both.x;
        to[1] = both.y;
    } else {
        static_assert(std::same_as<T, bfloat16>);
        to[0] = __uint_as_float(word << 16);
        to[1] = __uint_as_float(word & 0xffff0000u);
    }
}

/// The reverse, rounded to nearest, ties to even.
template <class T>
__device__ __forceinline__ unsigned narrow(const float* from) {
    if constexpr (std::same_as<T, float>) {
        return __float_as_uint(*from);
    } else if constexpr (std::same_as<T, half>) {
        return bits_as<unsigned>(__floats2half2_rn(from[0], from[1]));
    } else {
        static_assert(std::same_as<T, bfloat16>);
        return bits_as<unsigned>(__floats2bfloat162_rn(from[0], from[1]));
    }
}

/// The elements of T in several words as floats.
template <class T, int count>
__device__ __forceinline__ void widen(const Words<count>& from, float* to) {
#pragma unroll
    for (int i = 0; i < count; ++i) widen<T>(from.words[i], to + i * per_word<T>);
}

/// Loads `width` elements as floats: one, or as many as are aligned and fill 4, 8 or 16 bytes.
template <int width, class T>
__device__ __forceinline__ void load(const T* from, float (&to)[width]) {
    if constexpr (width == 1)
        to[0] = static_cast<float>(*from);
    else
        widen<T>(load_words<width / per_word<T>>(from), to);
}

/// The reverse, rounded to nearest, ties to even.
template <int width, class T>
__device__ __forceinline__ void store(const float (&from)[width], T* to) {
    if constexpr (width == 1) {
        *to = static_cast<T>(from[0]);
    } else {
        Words<width / per_word<T>> packed;
#pragma unroll
        for (int i = 0; i < width / per_word<T>; ++i) packed.words[i] = narrow<T>(from + i * per_word<T>);
        store_words(packed, to);
    }
}

}  // namespace mistral::cuda

#pragma once

#include <mistral/base/aligned_buffer.hpp>
#include <mistral/base/error.hpp>
#include <mistral/base/host_matrix.hpp>
#include <mistral/base/types.hpp>
#include <mistral/checkpoint/tensor_view.hpp>
#include <mistral/scalar/scalar.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stop_token>

namespace mistral {

/// `value` as a float of which the last bit is set wherever it is not exact. Rounding that to a type with at least two
/// bits less gives the same as rounding `value` itself, where rounding to the nearest float first would round twice
/// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
[[nodiscard]] inline float round_to_odd(double value) {
    const float nearest = static_cast<float>(value);
    auto bits = std::bit_cast<std::uint32_t>(nearest);
    if (std::abs(static_cast<double>(nearest)) > std::abs(value)) --bits;  // towards zero
    if (static_cast<double>(nearest) != value && value == value) bits |= 1;
    return std::bit_cast<float>(bits);
}

/// `value` in another element type, rounded to the nearest, ties to even.
template <class To, class From>
[[nodiscard]] To rounded(From value) {
    constexpr bool is_short = std::same_as<To, half> || std::same_as<To, bfloat16>;
    if constexpr (std::same_as<From, To>)
        return value;
    else if constexpr (std::same_as<From, double> && is_short)
        return static_cast<To>(round_to_odd(value));
    else if constexpr (std::same_as<From, double>)
        return static_cast<To>(value);
    else
        return static_cast<To>(static_cast<float>(value));  // exact from 16 bits
}

template <class T>
[[nodiscard]] bool is_infinite(T value) {
    if constexpr (sizeof(T) == 2)  // on the bits, which compilers turn into vectors
        return (std::bit_cast<std::uint16_t>(value) & 0x7FFF) == (std::same_as<T, half> ? 0x7C00 : 0x7F80);
    else
        return std::isinf(value);
}

/// Whether every finite number of From is a finite one in To.
template <class To, class From>
inline constexpr bool keeps_range = std::same_as<From, To> || std::same_as<To, double> || std::same_as<From, half> ||
                                    (std::same_as<From, bfloat16> && std::same_as<To, float>);

/// Converts elements that lie packed at any alignment. Returns false where a finite number became infinite.
template <class To, class From>
[[nodiscard]] bool convert_elements(const std::byte* from, To* to, Index count) {
    const auto element = [from](Index i) {
        From value;
        std::memcpy(&value, from + i * static_cast<Index>(sizeof(From)), sizeof(From));
        return value;
    };
    for (Index i = 0; i < count; ++i) to[i] = rounded<To>(element(i));
    if (keeps_range<To, From> || std::none_of(to, to + count, is_infinite<To>)) return true;
    for (Index i = 0; i < count; ++i)
        if (is_infinite(to[i]) && !is_infinite(element(i))) return false;
    return true;
}

/// The function that converts a tensor's elements to T. Throws Error where they are not of floating point.
template <class T>
[[nodiscard]] auto converter(const TensorView& tensor) {
    switch (tensor.dtype) {
        case DType::f64:
            return &convert_elements<T, double>;
        case DType::f32:
            return &convert_elements<T, float>;
        case DType::f16:
            return &convert_elements<T, half>;
        case DType::bf16:
            return &convert_elements<T, bfloat16>;
        default:
            fail(tensor.origin, " has the type ", info(tensor.dtype).name, ", expected BF16, F16, F32 or F64");
    }
}

/// A tensor as a matrix [rows, cols] of T. One of T's own type that is aligned for it stays where it is, mapped; any
/// other is read and converted into memory of its own, rows * cols * sizeof(T) bytes, each element to the nearest that
/// T has. Throws Error where a finite number is beyond T's range or the tensor is not of floating point, Cancelled
/// where `stop` asks for it.
template <class T>
[[nodiscard]] HostMatrix<T> host_matrix(const TensorView& tensor, Index rows, Index cols, const std::stop_token& stop) {
    require(rows * cols == tensor.elements(), tensor.origin, " has ", tensor.elements(), " elements, expected ",
            rows * cols);
    if (tensor.dtype == dtype_of<T> && reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % alignof(T) == 0)
        return {{reinterpret_cast<const T*>(tensor.bytes.data()), rows, cols}, tensor.owner};
    const auto convert = converter<T>(tensor);
    constexpr Index block = Index{1} << 14;  // both sides stay in the cache, and a stop is noticed at once
    const auto converted = std::make_shared<AlignedBuffer<T>>(rows * cols);
    const Index from_size = info(tensor.dtype).bits / 8;
    for (Index i = 0; i < rows * cols; i += block) {
        if (stop.stop_requested()) throw Cancelled("loading was cancelled at " + tensor.origin);
        const bool kept =
            convert(tensor.bytes.data() + i * from_size, converted->data() + i, std::min(block, rows * cols - i));
        require(kept, tensor.origin, " holds numbers beyond the range of ", ScalarTraits<T>::name);
    }
    return {{converted->data(), rows, cols}, converted};
}

}  // namespace mistral

#pragma once

#include <mistral/base/types.hpp>
#include <mistral/scalar/scalar.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mistral {

/// The element types of the safetensors format 0.8, in its order.
enum class DType {
    boolean,
    f4,
    f6_e2m3,
    f6_e3m2,
    u8,
    i8,
    f8_e5m2,
    f8_e4m3,
    f8_e8m0,
    f8_e4m3fnuz,
    f8_e5m2fnuz,
    i16,
    u16,
    f16,
    bf16,
    i32,
    u32,
    f32,
    c64,
    f64,
    i64,
    u64,
};

/// What a file calls an element type, and the bits of one element.
struct DTypeInfo {
    DType dtype;
    std::string_view name;
    Index bits;
};

inline constexpr std::array<DTypeInfo, 22> dtype_infos{{
    {DType::boolean, "BOOL", 8},
    {DType::f4, "F4", 4},
    {DType::f6_e2m3, "F6_E2M3", 6},
    {DType::f6_e3m2, "F6_E3M2", 6},
    {DType::u8, "U8", 8},
    {DType::i8, "I8", 8},
    {DType::f8_e5m2, "F8_E5M2", 8},
    {DType::f8_e4m3, "F8_E4M3", 8},
    {DType::f8_e8m0, "F8_E8M0", 8},
    {DType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
    {DType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
    {DType::i16, "I16", 16},
    {DType::u16, "U16", 16},
    {DType::f16, "F16", 16},
    {DType::bf16, "BF16", 16},
    {DType::i32, "I32", 32},
    {DType::u32, "U32", 32},
    {DType::f32, "F32", 32},
    {DType::c64, "C64", 64},
    {DType::f64, "F64", 64},
    {DType::i64, "I64", 64},
    {DType::u64, "U64", 64},
}};

[[nodiscard]] constexpr const DTypeInfo& info(DType dtype) {
    return dtype_infos[static_cast<std::size_t>(dtype)];
}

[[nodiscard]] constexpr std::optional<DType> find_dtype(std::string_view name) {
    for (const DTypeInfo& known : dtype_infos)
        if (known.name == name) return known.dtype;
    return std::nullopt;
}

/// The element type in files that is T in memory.
template <class T>
requires std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, half> || std::same_as<T, bfloat16>
inline constexpr DType dtype_of = std::same_as<T, double>  ? DType::f64
                                  : std::same_as<T, float> ? DType::f32
                                  : std::same_as<T, half>  ? DType::f16
                                                           : DType::bf16;

/// A tensor in the memory that `owner` keeps alive, row-major and little-endian, at any alignment.
struct TensorView {
    DType dtype = DType::f32;
    std::vector<Index> shape{};           ///< empty for a single number
    std::span<const std::byte> bytes{};   ///< the elements, packed
    std::shared_ptr<const void> owner{};  ///< of the bytes, such as a mapped file
    std::string origin{};                 ///< the file and the name in it, for messages

    [[nodiscard]] Index elements() const {
        Index product = 1;
        for (const Index extent : shape) product *= extent;
        return product;
    }
};

/// A shape as messages write it: "[4096, 14336]".
[[nodiscard]] inline std::string shape_text(std::span<const Index> shape) {
    std::string text = "[";
    for (const Index extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
    return text + "]";
}

}  // namespace mistral

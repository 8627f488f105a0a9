#pragma once

#include <mistral/base/types.hpp>
#include <mistral/scalar/quantization.hpp>
#include <mistral/scalar/scalar.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

namespace mistral {

/// How a cache holds the key or the value of one head and token: as a row of elements, which whoever copies or saves
/// them need not understand. Most scalars are themselves the elements.
template <CacheScalar C>
struct CachedRow {
    using Element = C;

    /// Elements of a row.
    static constexpr Index size(Index head_dim) { return head_dim; }

    /// x [head_dim] -> row [size(head_dim)], rounded.
    static void write(const Activation<C>* x, Index head_dim, Element* row) {
        std::transform(x, x + head_dim, row, [](Activation<C> element) { return static_cast<C>(element); });
    }
};

/// Integers of 8 bits, then the two bytes of the bfloat16 that they are multiples of: about 1 / 127 of the largest
/// magnitude.
template <>
struct CachedRow<Q8> {
    using Element = std::int8_t;

    static constexpr Index size(Index head_dim) { return head_dim + Index{sizeof(bfloat16)}; }

    /// Rows with an infinity or a NaN become NaN as a whole.
    static void write(const float* x, Index head_dim, Element* row) {
        std::uint32_t largest = 0;  // magnitudes are ordered as their bits are, NaN above all
        for (Index i = 0; i < head_dim; ++i)
            largest = std::max(largest, std::bit_cast<std::uint32_t>(x[i]) & 0x7fff'ffffu);
        const auto scale = static_cast<bfloat16>(std::bit_cast<float>(largest) / 127);
        std::memcpy(row + head_dim, &scale, sizeof(scale));
        const auto step = static_cast<float>(scale);
        if (0 < step && step <= std::numeric_limits<float>::max())
            for (Index i = 0; i < head_dim; ++i)
                row[i] = static_cast<Element>(nearest_integer(std::min(std::max(x[i] / step, -127.0f), 127.0f)));
        else
            std::fill_n(row, head_dim, Element{0});
    }

    [[nodiscard]] static float scale(const Element* row, Index head_dim) {
        std::uint16_t bits;
        std::memcpy(&bits, row + head_dim, sizeof(bits));
        return static_cast<float>(std::bit_cast<bfloat16>(bits));
    }
};

template <CacheScalar C>
using CachedElement = typename CachedRow<C>::Element;

}  // namespace mistral

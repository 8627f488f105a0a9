#pragma once

#include <concepts>
#include <type_traits>

namespace mistral {

/// The quotient of whole numbers, rounded up: how many parts of at most `divisor` hold `dividend`, which is 0 or more.
template <std::integral T>
[[nodiscard]] constexpr T divide_up(T dividend, std::type_identity_t<T> divisor) {
    return (dividend + divisor - 1) / divisor;
}

/// The least multiple that is not below `number`, which is 0 or more.
template <std::integral T>
[[nodiscard]] constexpr T round_up(T number, std::type_identity_t<T> multiple) {
    return divide_up(number, multiple) * multiple;
}

}  // namespace mistral

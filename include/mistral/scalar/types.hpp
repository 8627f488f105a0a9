#pragma once

#include <concepts>
#include <string_view>

namespace Eigen {
struct half;
struct bfloat16;
}  // namespace Eigen

namespace mistral {

using half = Eigen::half;          ///< IEEE 754 binary16
using bfloat16 = Eigen::bfloat16;  ///< the upper half of a binary32

/// The element types of weights.
template <class T>
concept Scalar =
    std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, half> || std::same_as<T, bfloat16>;

template <class T>
struct ScalarTraits;

/// The type that activations, sums, norms, softmax and logits have beside weights of type T.
template <Scalar T>
using Activation = typename ScalarTraits<T>::Activation;

/// The type of cached keys and values unless the caller chooses another.
template <Scalar T>
using DefaultCacheScalar = typename ScalarTraits<T>::Cache;

template <>
struct ScalarTraits<double> {
    using Activation = double;
    using Cache = double;
    static constexpr std::string_view name = "double";
};

template <>
struct ScalarTraits<float> {
    using Activation = float;
    using Cache = float;
    static constexpr std::string_view name = "float";
};

template <>
struct ScalarTraits<half> {
    using Activation = float;
    using Cache = half;
    static constexpr std::string_view name = "half";
};

template <>
struct ScalarTraits<bfloat16> {
    using Activation = float;
    using Cache = bfloat16;
    static constexpr std::string_view name = "bfloat16";
};

}  // namespace mistral

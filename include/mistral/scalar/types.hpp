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

struct Q8;  ///< integers of 8 bits, 64 of which share a scale: 8.25 bits each (see scalar/quantization.hpp)
struct Q4;  ///< one of 16 levels each, 64 of which share a scale: 4.25 bits each

/// The element types of weights that are quantised while they are loaded.
template <class T>
concept QuantizedScalar = std::same_as<T, Q8> || std::same_as<T, Q4>;

/// The element types of weights.
template <class T>
concept Scalar = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, half> ||
    std::same_as<T, bfloat16> || QuantizedScalar<T>;

/// What keys and values can be cached in; Q8 there is 8 bits for each element (see scalar/cached_row.hpp).
template <class T>
concept CacheScalar = Scalar<T> && !std::same_as<T, Q4>;

template <class T>
struct ScalarTraits;

/// The type that activations, sums, norms, softmax and logits have beside weights of type T.
template <Scalar T>
using Activation = typename ScalarTraits<T>::Activation;

/// The type of cached keys and values unless the caller chooses another.
template <Scalar T>
using DefaultCacheScalar = typename ScalarTraits<T>::Cache;

/// The type of the embedding's table beside weights of type T: only single rows of it are read.
template <Scalar T>
using EmbeddingScalar = typename ScalarTraits<T>::Embedding;

template <>
struct ScalarTraits<double> {
    using Activation = double;
    using Cache = double;
    using Embedding = double;
    static constexpr std::string_view name = "double";
};

template <>
struct ScalarTraits<float> {
    using Activation = float;
    using Cache = float;
    using Embedding = float;
    static constexpr std::string_view name = "float";
};

template <>
struct ScalarTraits<half> {
    using Activation = float;
    using Cache = half;
    using Embedding = half;
    static constexpr std::string_view name = "half";
};

template <>
struct ScalarTraits<bfloat16> {
    using Activation = float;
    using Cache = bfloat16;
    using Embedding = bfloat16;
    static constexpr std::string_view name = "bfloat16";
};

template <>
struct ScalarTraits<Q8> {
    using Activation = float;
    using Cache = bfloat16;
    using Embedding = bfloat16;
    static constexpr std::string_view name = "q8";
};

template <>
struct ScalarTraits<Q4> {
    using Activation = float;
    using Cache = bfloat16;
    using Embedding = bfloat16;
    static constexpr std::string_view name = "q4";
};

}  // namespace mistral

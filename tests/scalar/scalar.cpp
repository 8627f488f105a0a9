#include <mistral/scalar/scalar.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

using namespace mistral;

namespace {

/// The nearest of all finite numbers of T, the even one of two: what a conversion must give, found by search.
template <class T>
double nearest(double x) {
    double best = 0;
    double distance = std::numeric_limits<double>::infinity();
    bool best_is_odd = false;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
        const double candidate =
            static_cast<double>(static_cast<float>(std::bit_cast<T>(static_cast<std::uint16_t>(bits))));
        if (!std::isfinite(candidate)) continue;
        const double d = std::abs(candidate - x);
        if (d < distance || (d == distance && best_is_odd)) {
            best = candidate;
            distance = d;
            best_is_odd = bits & 1;
        }
    }
    return best;
}

}  // namespace

TEST_CASE_TEMPLATE("floats are rounded to the nearest, ties to even, subnormals too", T, half, bfloat16) {
    for (const float x : {0.0f, 1.0f, 1.001f, -1.00390625f, 1.01171875f, 0x1.002p0f, 0x1.006p0f, 3.14159f, -65504.0f,
                          1e-7f, 0x1p-25f, 0x1.8p-25f, -0x1.4p-20f, 123.456f, 0x1.01p0f, 0x1.03p0f, 0x1.fep3f})
        CHECK(static_cast<double>(static_cast<float>(static_cast<T>(x))) == nearest<T>(x));
}

TEST_CASE("16 bits per element, and activations are never shorter than float") {
    static_assert(sizeof(half) == 2 && sizeof(bfloat16) == 2);
    static_assert(std::same_as<Activation<half>, float> && std::same_as<Activation<bfloat16>, float>);
    static_assert(std::same_as<Activation<float>, float> && std::same_as<Activation<double>, double>);
    CHECK(ScalarTraits<bfloat16>::name == "bfloat16");
}

#include <mistral/device/cpu/simd.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "device/cpu/architectures.hpp"

using namespace mistral;
using namespace mistral::cpu;

namespace {

/// Values of 16 bits that the vectors widen to other bits than the scalar conversion does, not counting how a NaN is
/// spelt.
template <class S, class Architecture>
int widened_differently() {
    constexpr Index step = WeightLanes<S, Architecture>::step;
    int different = 0;
    for (std::uint32_t first = 0; first < 65536; first += static_cast<std::uint32_t>(step)) {
        std::vector<S> narrow;
        for (std::uint32_t i = 0; i < static_cast<std::uint32_t>(step); ++i)
            narrow.push_back(std::bit_cast<S>(static_cast<std::uint16_t>(first + i)));
        std::vector<float> packed(narrow.size()), wide(narrow.size());
        widen_packed<S, Architecture>(narrow.data(), step, packed.data());
        unpack<S, Architecture>(packed.data(), step, wide.data());
        for (std::size_t i = 0; i < wide.size(); ++i) {
            const float expected = static_cast<float>(narrow[i]);
            different += std::isnan(expected)
                             ? !std::isnan(wide[i])
                             : std::bit_cast<std::uint32_t>(expected) != std::bit_cast<std::uint32_t>(wide[i]);
        }
    }
    return different;
}

}  // namespace

TEST_CASE_TEMPLATE("every half and bfloat16 is widened exactly, subnormals and infinities included", Architecture,
                   MISTRAL_TEST_ARCHITECTURES) {
    CHECK(widened_differently<half, Architecture>() == 0);
    if constexpr (!std::same_as<Architecture, Avx512Dot>)  // which multiplies pairs without widening them
        CHECK(widened_differently<bfloat16, Architecture>() == 0);
}

TEST_CASE_TEMPLATE("unpacking undoes packing for any length, and the padding is zero", Architecture,
                   MISTRAL_TEST_ARCHITECTURES) {
    const auto round_trip = []<class S>(S) {
        for (Index n = 1; n < 150; ++n) {
            std::vector<float> x(static_cast<std::size_t>(n)), back(x.size());
            std::iota(x.begin(), x.end(), 1.0f);
            std::vector<float> packed(static_cast<std::size_t>(padded_to_steps<S, Architecture>(n)), -1.0f);
            pack<S, Architecture>(x.data(), n, packed.data());
            unpack<S, Architecture>(packed.data(), n, back.data());
            CHECK(back == x);
            CHECK(std::accumulate(packed.begin(), packed.end(), 0.0f) == static_cast<float>(n * (n + 1) / 2));
        }
    };
    round_trip(half{});
    if constexpr (!std::same_as<Architecture, Avx512Dot>) round_trip(bfloat16{});
    round_trip(float{});
}

TEST_CASE_TEMPLATE("the sum of a vector is the sum of its lanes", Architecture, MISTRAL_TEST_ARCHITECTURES) {
    std::vector<float> x(static_cast<std::size_t>(lanes<float, Architecture>));
    std::iota(x.begin(), x.end(), 1.0f);
    CHECK(sum(Batch<float, Architecture>::load_unaligned(x.data())) == std::accumulate(x.begin(), x.end(), 0.0f));
}

TEST_CASE_TEMPLATE("the exponential is defined for every number", Architecture, MISTRAL_TEST_ARCHITECTURES) {
    const auto check = []<class T>(T) {
        const auto at = [](T x) { return exponential(Batch<T, Architecture>(x)).get(0); };
        CHECK(at(T(0)) == T(1));
        CHECK(std::abs(at(T(1)) - std::exp(T(1))) < 4 * std::numeric_limits<T>::epsilon());
        for (const T x : {T(-1e5), std::numeric_limits<T>::lowest(), -std::numeric_limits<T>::infinity()})
            CHECK(at(x) == T(0));
        for (const T x : {T(1e5), std::numeric_limits<T>::max(), std::numeric_limits<T>::infinity()})
            CHECK(at(x) == std::numeric_limits<T>::infinity());
        CHECK(std::isnan(at(std::numeric_limits<T>::quiet_NaN())));
    };
    check(float{});
    check(double{});
}

#if defined(MISTRAL_HAS_AVX512_DOT)
TEST_CASE("packing for pairs rounds to the nearest bfloat16, and the padding is zero") {
    for (Index n = 1; n < 150; ++n) {
        std::vector<float> x(static_cast<std::size_t>(n));
        for (std::size_t i = 0; i < x.size(); ++i)
            x[i] = std::sin(static_cast<float>(i)) * std::exp2(static_cast<float>(i % 40) - 20);
        std::vector<bfloat16> packed(static_cast<std::size_t>(padded_to_steps<bfloat16, Avx512Dot>(n)), bfloat16(NAN));
        pack<bfloat16, Avx512Dot>(x.data(), n, packed.data());
        for (std::size_t i = 0; i < packed.size(); ++i)
            CHECK(packed[i] == (i < x.size() ? static_cast<bfloat16>(x[i]) : bfloat16(0)));
    }
}
#endif

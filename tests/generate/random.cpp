#include <mistral/generate/random.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>

using namespace mistral;

TEST_CASE("random numbers are those of the engine that the C++ standard specifies") {
    // [rand.predef]: the 10000th number of a default mt19937_64, whose seed is 5489.
    Random random(5489);
    for (int i = 1; i < 10000; ++i) static_cast<void>(random.uniform());
    CHECK(random.uniform() == static_cast<double>(9981545732273789042u >> 11) * 0x1p-53);

    // From an implementation of the engine's definition in Python.
    Random other(42);
    for (const double expected : {0.755155532954539, 0.6390313938546974, 0.7521452007480266, 0.13627268363243705})
        CHECK(other.uniform() == expected);
}

TEST_CASE("random numbers lie in [0, 1) and fill it evenly") {
    Random random(3);
    constexpr int numbers = 100000;
    std::array<int, 10> tenths{};
    int outside = 0;
    for (int i = 0; i < numbers; ++i) {
        const double number = random.uniform();
        if (number < 0 || number >= 1)
            ++outside;
        else
            ++tenths[static_cast<std::size_t>(number * 10)];
    }
    CHECK(outside == 0);
    double chi_square = 0;
    for (const int count : tenths) chi_square += (count - 10000.0) * (count - 10000.0) / 10000.0;
    CHECK(chi_square < 33.7);  // 9 degrees of freedom: exceeded once in 10000 seeds
}

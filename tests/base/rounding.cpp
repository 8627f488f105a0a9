#include <mistral/base/rounding.hpp>

#include <mistral/base/types.hpp>

#include <doctest/doctest.h>

#include <cstddef>

using namespace mistral;

TEST_CASE("quotients and multiples are rounded up") {
    for (Index number = 0; number < 20; ++number)
        for (Index parts = 1; parts < 8; ++parts) {
            const Index quotient = divide_up(number, parts);
            CHECK(quotient * parts >= number);
            CHECK((quotient - 1) * parts < number);
            CHECK(round_up(number, parts) == quotient * parts);
        }
    static_assert(round_up(std::size_t{65}, 64) == 128);
    static_assert(divide_up(2'000'000'000, 3) == 666'666'667);
}

#include <mistral/base/c_locale.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "../program_locale.hpp"

using namespace mistral;

TEST_CASE("numbers are C's for the thread that asks, as long as it asks, and the locale's for the others") {
    for_each_decimal_point([] {
        const std::string point = ProgramLocale::decimal_point();
        {
            const CLocale numbers;
            CHECK(ProgramLocale::decimal_point() == ".");
            CHECK(std::strtod("1.5", nullptr) == 1.5);
            std::string elsewhere;
            std::thread([&] { elsewhere = ProgramLocale::decimal_point(); }).join();
            CHECK(elsewhere == point);
            { const CLocale once_more; }
            CHECK(ProgramLocale::decimal_point() == ".");
        }
        CHECK(std::strtod(("1" + point + "5").c_str(), nullptr) == 1.5);
    });
}

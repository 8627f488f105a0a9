#include <mistral/base/error.hpp>

#include <doctest/doctest.h>

#include <locale>
#include <string>

using namespace mistral;

namespace {

/// A locale that writes 1234.5 as 1.234,5.
struct DecimalComma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
};

}  // namespace

TEST_CASE("require throws an Error of all its parts only where the condition fails") {
    CHECK_NOTHROW(require(true, "never"));
    CHECK_THROWS_WITH_AS(require(false, "found ", 3, ", expected ", 4.5), "found 3, expected 4.5", Error);
    CHECK_THROWS_AS(fail("x"), std::runtime_error);
}

TEST_CASE("numbers in messages do not follow the global locale") {
    const std::locale before = std::locale::global(std::locale(std::locale::classic(), new DecimalComma));
    const std::string text = concat(1234567, " ", 0.5);
    std::locale::global(before);
    CHECK(text == "1234567 0.5");
}

TEST_CASE("numbers of floating point have six digits in messages") {
    CHECK(concat(0.1f, ' ', 1e-7, ' ', 1234567.0) == "0.1 1e-07 1.23457e+06");
}

TEST_CASE("Cancelled is an Error that can be told apart") {
    CHECK_THROWS_AS(throw Cancelled("stopped"), Error);
}

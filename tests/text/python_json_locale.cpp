#include <mistral/text/python_json.hpp>

#include <doctest/doctest.h>

#include "../program_locale.hpp"

using namespace mistral;

TEST_CASE("numbers are rewritten alike in every locale") {
    for_each_decimal_point(
        [] { CHECK(PythonJsonWriter::rewrite("[1.5, 2.25e3, -0.001, 1234567]") == "[1.5, 2250.0, -0.001, 1234567]"); });
}

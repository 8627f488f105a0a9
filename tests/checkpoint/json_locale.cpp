#include <mistral/checkpoint/json.hpp>

#include <doctest/doctest.h>

#include "../program_locale.hpp"
#include "files.hpp"

using namespace mistral;

TEST_CASE("numbers and messages do not depend on the program's locale") {
    for_each_decimal_point([] {
        const Json root = Json::parse(R"({"a": 0.125e1, "b": 1e-5, "c": 1234567})", "f.json");
        CHECK(root.at("a").number(0, 2) == 1.25);
        CHECK(root.at("b").number(0, 2) == 1e-5);
        CHECK(message_of([&] { return root.at("a").number(0, 0.5); }) ==
              "f.json: a is 0.125e1, expected a number between 0 and 0.5");
        CHECK(message_of([&] { return root.at("c").integer(0, 1'000'000); }) ==
              "f.json: c is 1234567, expected an integer from 0 to 1000000");
        CHECK(message_of([&] { return Json::parse("[1.5, 1.", "f.json"); }) != "");
    });
}

#include <mistral/base/checksum.hpp>

#include <doctest/doctest.h>

#include <span>
#include <string_view>

using namespace mistral;

namespace {

std::uint64_t checksum(std::string_view text) {
    Checksum checksum;
    checksum.add(std::as_bytes(std::span(text)));
    return checksum.value();
}

}  // namespace

TEST_CASE("checksums are those that FNV's authors publish") {
    CHECK(checksum("") == 0xCBF29CE484222325);
    CHECK(checksum("a") == 0xAF63DC4C8601EC8C);
    CHECK(checksum("foobar") == 0x85944171F73967E8);
}

TEST_CASE("pieces give the checksum of the whole") {
    Checksum pieces;
    for (const std::string_view piece : {"foo", "", "bar"}) pieces.add(std::as_bytes(std::span(piece)));
    CHECK(pieces.value() == checksum("foobar"));
}

#include <mistral/text/protobuf.hpp>

#include <doctest/doctest.h>

#include <string>

#include <message_of.hpp>
#include <text/model_builder.hpp>

using namespace mistral;

namespace {

std::string bytes(std::initializer_list<int> values) {
    std::string text;
    for (const int value : values) text += static_cast<char>(value);
    return text;
}

/// The message of the Error that reading all fields throws, or nothing.
std::string error_of(const std::string& message) {
    return message_of([&] {
        ProtobufReader reader(message, "file");
        while (reader.next()) continue;
    });
}

}  // namespace

TEST_CASE("fields of the four wire types come in order with their values") {
    const std::string inner = ProtobufWriter().varint(1, 7).str();
    const std::string message = ProtobufWriter()
                                    .varint(1, 300)
                                    .float32(2, -1.5f)
                                    .key(3, 1)
                                    .raw(bytes({1, 2, 3, 4, 5, 6, 7, 8}))
                                    .bytes(4, inner)
                                    .str();
    ProtobufReader reader(message, "file");
    auto field = reader.next();
    CHECK(field->number == 1);
    CHECK(reader.int32(*field) == 300);
    field = reader.next();
    CHECK(reader.float32(*field) == -1.5f);
    field = reader.next();
    CHECK(field->wire == WireType::fixed64);
    CHECK(field->value == 0x0807060504030201);
    field = reader.next();
    ProtobufReader nested = reader.message(*field);
    CHECK(nested.int32(*nested.next()) == 7);
    CHECK_FALSE(nested.next());
    CHECK_FALSE(reader.next());
    CHECK_FALSE(reader.next());
}

TEST_CASE("a negative number is the varint of its 64 bits") {
    const std::string message = ProtobufWriter().varint(1, ~std::uint64_t{0}).varint(1, std::uint64_t{1} << 31).str();
    ProtobufReader reader(message, "file");
    CHECK(reader.int32(*reader.next()) == -1);
    const auto field = reader.next();
    CHECK_THROWS_WITH_AS((void)reader.int32(*field),
                         "file, byte 11: field 1 is 2147483648, expected a number of 32 bits", Error);
}

TEST_CASE("the longest and the largest varint are read, longer and larger ones refused") {
    CHECK(error_of(bytes({8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01})).empty());
    CHECK(error_of(bytes({8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00})).empty());
    CHECK(error_of(bytes({8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02})) ==
          "file, byte 0: a number of more than 64 bits");
    CHECK(error_of(bytes({8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00})) ==
          "file, byte 0: a number of more than 64 bits");
}

TEST_CASE("what ends too early is refused") {
    CHECK(error_of(bytes({8})) == "file, byte 0: ends within a number");
    CHECK(error_of(bytes({8, 0x80})) == "file, byte 0: ends within a number");
    CHECK(error_of(bytes({8, 1, 0x0D, 1, 2, 3})) == "file, byte 2: a length of 4 bytes, but only 3 are left");
    CHECK(error_of(bytes({9, 1, 2, 3, 4, 5, 6, 7})) == "file, byte 0: a length of 8 bytes, but only 7 are left");
    CHECK(error_of(bytes({0x0A, 3, 1, 2})) == "file, byte 0: a length of 3 bytes, but only 2 are left");
}

TEST_CASE("a length that would wrap is refused") {
    CHECK(error_of(bytes({0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 1, 2})) ==
          "file, byte 0: a length of 18446744073709551615 bytes, but only 2 are left");
}

TEST_CASE("groups, unknown wire types and impossible field numbers are refused") {
    for (const int wire : {3, 4, 6, 7})
        CHECK(error_of(bytes({8 | wire})).find("expected 0, 1, 2 or 5") != std::string::npos);
    CHECK(error_of(bytes({2, 0})) == "file, byte 0: field number 0, expected 1 to 536870911");
    CHECK(error_of(ProtobufWriter().number((std::uint64_t{1} << 32) | 8).str()).find("expected 1 to 536870911") !=
          std::string::npos);
}

TEST_CASE("a field of another wire type than expected is refused") {
    const std::string message = ProtobufWriter().varint(1, 1).bytes(2, "x").str();
    ProtobufReader reader(message, "file");
    const auto number = reader.next();
    CHECK_THROWS_WITH_AS((void)reader.bytes(*number), "file, byte 0: field 1 has wire type 0, expected bytes", Error);
    CHECK_THROWS_AS((void)reader.message(*number), Error);
    CHECK_THROWS_AS((void)reader.float32(*number), Error);
    const auto text = reader.next();
    CHECK_THROWS_WITH_AS((void)reader.int32(*text), "file, byte 2: field 2 has wire type 2, expected a varint", Error);
    CHECK_THROWS_AS((void)reader.boolean(*text), Error);
}

TEST_CASE("offsets in a nested message count from the start of the file") {
    const std::string message = ProtobufWriter().varint(1, 1).bytes(2, ProtobufWriter().key(1, 3).str()).str();
    ProtobufReader reader(message, "file");
    (void)reader.next();
    ProtobufReader nested = reader.message(*reader.next());
    CHECK_THROWS_WITH_AS((void)nested.next(), "file, byte 4: wire type 3 in field 1, expected 0, 1, 2 or 5", Error);
}

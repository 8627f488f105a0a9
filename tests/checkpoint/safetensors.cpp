#include <mistral/checkpoint/safetensors.hpp>

#include <doctest/doctest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "files.hpp"

using namespace mistral;

namespace {

/// Parses bytes in memory of exactly their size, so that a sanitizer sees any byte read beyond.
Safetensors parse(const std::string& file) {
    const auto copy =
        std::make_shared<std::vector<std::byte>>(files::bytes_of(file).begin(), files::bytes_of(file).end());
    copy->shrink_to_fit();
    return Safetensors::parse(*copy, copy, "f");
}

std::string read_error(const std::string& file) {
    return message_of([&] { return parse(file); });
}

/// Reads every byte of every tensor.
unsigned sum_of(const Safetensors& file) {
    unsigned sum = 0;
    for (const auto& [name, tensor] : file.tensors())
        for (const std::byte byte : tensor.bytes) sum += static_cast<unsigned>(byte);
    return sum;
}

/// The message for one tensor "t" with these entries and four bytes of data.
std::string refusal_of_entry(const std::string& entries) {
    return read_error(files::safetensors(R"({"t":{)" + entries + "}}", "abcd"));
}

const std::string small = files::safetensors({{"a", "F32", {2, 1}, "01234567"}, {"b\u00e9", "BF16", {3}, "abcdef"}});

}  // namespace

TEST_CASE("tensors are listed with type, shape, bytes and origin") {
    const Safetensors file = parse(small);
    REQUIRE(file.tensors().size() == 2);
    const TensorView& a = file.tensors().at("a");
    CHECK(a.dtype == DType::f32);
    CHECK(a.shape == std::vector<Index>{2, 1});
    CHECK(a.elements() == 2);
    CHECK(std::string(reinterpret_cast<const char*>(a.bytes.data()), a.bytes.size()) == "01234567");
    CHECK(a.origin == "f: a");
    const TensorView& b = file.tensors().at("b\u00e9");
    CHECK(b.dtype == DType::bf16);
    CHECK(std::string(reinterpret_cast<const char*>(b.bytes.data()), b.bytes.size()) == "abcdef");
    CHECK(b.origin == "f: b\\xc3\\xa9");
}

TEST_CASE("a tensor keeps the file that it lies in alive") {
    TensorView kept;
    {
        const auto owner = std::make_shared<std::string>(small);
        kept = Safetensors::parse(files::bytes_of(*owner), owner, "f").tensors().at("a");
    }
    CHECK(std::string(reinterpret_cast<const char*>(kept.bytes.data()), kept.bytes.size()) == "01234567");
}

TEST_CASE("a file of the original writer holds what it was written with") {
    const auto path = files::hugging_face / "model.safetensors";
    const Safetensors file = Safetensors::open(path);
    const auto expected = files::read_safetensors(path);
    REQUIRE(file.tensors().size() == expected.size());
    for (const files::Tensor& tensor : expected) {
        CAPTURE(tensor.name);
        const TensorView& found = file.tensors().at(tensor.name);
        CHECK(info(found.dtype).name == tensor.dtype);
        CHECK(found.shape == std::vector<Index>(tensor.shape.begin(), tensor.shape.end()));
        CHECK(std::string(reinterpret_cast<const char*>(found.bytes.data()), found.bytes.size()) == tensor.bytes);
        CHECK(found.origin == path.string() + ": " + tensor.name);
    }
}

TEST_CASE("malformed files have the verdicts of the manifest") {
    for (const auto& entry : files::manifest("safetensors")) {
        CAPTURE(entry.dump());
        const auto message = message_of(
            [&] { return sum_of(Safetensors::open(files::malformed / entry.at("file").get<std::string>())); });
        CHECK(message.empty() == (entry.at("verdict") == "accept"));
        CHECK(message.size() < 1000);
    }
}

TEST_CASE("an entry is refused with file, tensor, found and expected") {
    CHECK(refusal_of_entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])").empty());
    CHECK(refusal_of_entry(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])") ==
          "f: t.dtype is \"F31\", expected an element type of the safetensors format");
    CHECK(refusal_of_entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])") ==
          "f: t spans 4 bytes, expected 8 for F32 of the shape [2]");
    CHECK(refusal_of_entry(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])") ==
          "f: t.shape[0] is -1, expected an integer from 0 to 9223372036854775807");
    CHECK(refusal_of_entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,5])") ==
          "f: t.data_offsets[1] is 5, expected an integer from 0 to 4");
    CHECK(refusal_of_entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])") ==
          "f: t.data_offsets[1] is 0, expected an integer from 4 to 4");
    CHECK(refusal_of_entry(R"("dtype":"F32","shape":[1],"data_offsets":[0])") ==
          "f: t.data_offsets is a list of 1, expected a list of two offsets");
    CHECK(refusal_of_entry(R"("dtype":"F32","shape":[1])") ==
          "f: t has 2 entries, expected dtype, shape and data_offsets");
    CHECK(refusal_of_entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"scale":2)") ==
          "f: t has 4 entries, expected dtype, shape and data_offsets");
    CHECK(refusal_of_entry(R"("dtype":"F4","shape":[7],"data_offsets":[0,4])") ==
          "f: t has 28 bits, expected whole bytes");
    CHECK(refusal_of_entry(R"("dtype":"F4","shape":[8],"data_offsets":[0,4])").empty());
    CHECK(files::contains(refusal_of_entry(R"("dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,4])"),
                          "f: t.shape is [4611686018427387905, 4], more than a file can hold"));
}

TEST_CASE("more extents than PyTorch allows are refused") {
    const auto shape_of_rank = [](int rank) {
        std::string extents = "1";
        for (int i = 1; i < rank; ++i) extents += ",1";
        return R"("dtype":"F32","shape":[)" + extents + R"(],"data_offsets":[0,4])";
    };
    CHECK(refusal_of_entry(shape_of_rank(64)).empty());
    CHECK(refusal_of_entry(shape_of_rank(65)) == "f: t.shape is a list of 65, expected a list of at most 64");
}

TEST_CASE("the tensors must cover the data without gap, overlap and remainder") {
    const auto two = [](const std::string& first, const std::string& second, const std::string& data) {
        return read_error(files::safetensors(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + first +
                                                 R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + second + "}}",
                                             data));
    };
    CHECK(two("[0,2]", "[2,4]", "abcd").empty());
    CHECK(two("[2,4]", "[0,2]", "abcd").empty());
    CHECK(two("[0,2]", "[3,5]", "abcde") ==
          "f has tensors that leave a gap at byte 3 of its data, expected the next to begin at 2");
    CHECK(two("[0,2]", "[1,3]", "abc") ==
          "f has tensors that overlap at byte 1 of its data, expected the next to begin at 2");
    CHECK(two("[1,3]", "[3,5]", "abcde") ==
          "f has tensors that leave a gap at byte 1 of its data, expected the next to begin at 0");
    CHECK(two("[0,2]", "[2,4]", "abcde") == "f has 5 bytes of data, expected 4 by its header");
    CHECK(read_error(files::safetensors("{}", "a")) == "f has 1 bytes of data, expected 0 by its header");
}

TEST_CASE("empty tensors may lie between others") {
    const Safetensors file = parse(files::safetensors(
        {{"a", "F32", {0, 5}, ""}, {"b", "U8", {2}, "xy"}, {"c", "I64", {0}, ""}, {"d", "U8", {1}, "z"}}));
    CHECK(file.tensors().at("c").elements() == 0);
    CHECK(sum_of(file) == 'x' + 'y' + 'z');
}

TEST_CASE("the header must be one object that begins with a brace, of a believable length") {
    CHECK(read_error(files::safetensors("{}")).empty());
    CHECK(read_error(files::safetensors("{}  ")).empty());
    CHECK(read_error("1234567") ==
          "f has 7 bytes, expected a safetensors file, which begins with the length of its header in 8 bytes");
    CHECK(read_error(files::safetensors("")) == "f has a header that begins with \"\", expected '{'");
    CHECK(read_error(files::safetensors(" {}")) == "f has a header that begins with \" \", expected '{'");
    CHECK(files::contains(read_error(files::safetensors("{} x")), "f is not valid JSON, at byte 4"));
    CHECK(read_error(std::string("\x03\0\0\0\0\0\0\0{}", 10)) ==
          "f says that its header has 3 bytes, but only 2 follow: it is truncated, or no safetensors file");
    CHECK(files::contains(read_error(std::string(8, '\xff') + "{}"),
                          "f says that its header has 18446744073709551615 bytes"));
    CHECK(read_error(files::safetensors("{" + std::string(JsonBuilder::max_bytes, ' ') + "}")) ==
          "f has a header of 1048578 bytes, expected at most 1048576");
}

TEST_CASE("metadata must map texts to texts") {
    CHECK(read_error(files::safetensors(R"({"__metadata__":{"a":"b"}})")).empty());
    CHECK(read_error(files::safetensors(R"({"__metadata__":{"a":1}})")) == "f: __metadata__.a is 1, expected a text");
    CHECK(read_error(files::safetensors(R"({"__metadata__":"a"})")) == "f: __metadata__ is \"a\", expected an object");
}

TEST_CASE("a file cut at any byte is refused") {
    int accepted = 0;
    for (std::size_t size = 0; size < small.size(); ++size) accepted += read_error(small.substr(0, size)).empty();
    CHECK(accepted == 0);
    CHECK(read_error(small).empty());
}

TEST_CASE("a file with bytes changed at random is either refused or safe to read") {
    std::mt19937_64 random(20'260'101);
    const std::size_t header_end = small.find("}}") + 2;
    const std::string likely = "0123456789[]{},:\"\\.-eF\x80 ";
    int accepted = 0;
    constexpr int trials = 20'000;
    for (int trial = 0; trial < trials; ++trial) {
        std::string file = small;
        for (auto changes = 1 + random() % 3; changes > 0; --changes) {
            const char byte = random() % 2 == 0 ? likely[random() % likely.size()] : static_cast<char>(random());
            file[random() % header_end] = byte;
        }
        if (random() % 8 == 0) file.resize(random() % file.size());
        accepted += message_of([&] { return sum_of(parse(file)); }).empty();  // any other exception fails the test
    }
    CHECK(accepted > 0);
    CHECK(accepted < trials / 2);
}

TEST_CASE("a hostile header within the limits is refused") {
    std::string names = "{";
    for (int i = 0; i < 150'000; ++i) names += "\"" + std::to_string(i) + "\":{},";
    CHECK_FALSE(read_error(files::safetensors(names + "\"x\":{}}")).empty());
    CHECK_FALSE(read_error(files::safetensors("{\"" + std::string(2'000'000, 'a') + "\":0}")).empty());
}

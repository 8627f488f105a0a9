#include <mistral/checkpoint/convert.hpp>

#include <mistral/base/mapped_file.hpp>

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <latch>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "files.hpp"

using namespace mistral;

namespace {

template <class T>
std::uint16_t bits_of(T value) {
    return std::bit_cast<std::uint16_t>(value);
}

template <class T>
T from_bits(std::uint16_t bits) {
    return std::bit_cast<T>(bits);
}

/// A tensor [count] of T that begins `offset` bytes after an aligned address.
template <class T>
struct Sample {
    explicit Sample(const std::vector<T>& values, std::size_t offset = 0)
        : memory(static_cast<Index>(values.size() * sizeof(T) + offset)) {
        std::memcpy(memory.data() + offset, values.data(), values.size() * sizeof(T));
        view = {dtype_of<T>,
                {static_cast<Index>(values.size())},
                {memory.data() + offset, values.size() * sizeof(T)},
                nullptr,
                "f: t"};
    }

    AlignedBuffer<std::byte> memory;
    TensorView view;
};

template <class To, class From>
std::vector<To> converted(const std::vector<From>& values, std::size_t offset = 0) {
    const Sample<From> sample(values, offset);
    const auto matrix = host_matrix<To>(sample.view, 1, static_cast<Index>(values.size()), {});
    return {matrix.view.data(), matrix.view.data() + values.size()};
}

/// The nearest T to `value`, ties to even, found by trying its neighbours: T's positive numbers are ordered as their
/// bits.
template <class T>
std::uint16_t nearest_bits(double value) {
    const double magnitude = std::abs(value);
    std::uint16_t low = 0;
    std::uint16_t high = bits_of(std::numeric_limits<T>::infinity());
    while (high - low > 1) {
        const auto middle = static_cast<std::uint16_t>((low + high) / 2);
        (static_cast<double>(static_cast<float>(from_bits<T>(middle))) <= magnitude ? low : high) = middle;
    }
    const auto number = [](std::uint16_t bits) {
        // Infinity counts as the number that would follow the largest one.
        if (bits != bits_of(std::numeric_limits<T>::infinity()))
            return static_cast<double>(static_cast<float>(from_bits<T>(bits)));
        return 2 * static_cast<double>(static_cast<float>(from_bits<T>(static_cast<std::uint16_t>(bits - 1)))) -
               static_cast<double>(static_cast<float>(from_bits<T>(static_cast<std::uint16_t>(bits - 2))));
    };
    const double below = magnitude - number(low);
    const double above = number(high) - magnitude;
    const bool up = above < below || (above == below && low % 2 == 1);
    return static_cast<std::uint16_t>((up ? high : low) | (std::signbit(value) ? 0x8000 : 0));
}

/// Numbers around those that T has: at them, at the middle between two, and a little to each side of both.
template <class T>
std::vector<double> critical_numbers() {
    std::mt19937_64 random(5);
    std::vector<double> numbers;
    const std::uint16_t infinity = bits_of(std::numeric_limits<T>::infinity());
    for (std::uint64_t i = 0; i < 4000; ++i) {
        const auto bits = static_cast<std::uint16_t>(i < 600 ? i : random() % (infinity - 1u));
        const double low = static_cast<double>(static_cast<float>(from_bits<T>(bits)));
        const double high = static_cast<double>(static_cast<float>(from_bits<T>(static_cast<std::uint16_t>(bits + 1))));
        for (const double number : {low, (low + high) / 2})
            for (const double nudge : {0.0, 1e-16, -1e-16, 1e-9, -1e-9, 1e-4, -1e-4})
                for (const double sign : {1.0, -1.0}) numbers.push_back(sign * (number + nudge * (high - low)));
    }
    return numbers;
}

/// How many of the critical numbers, as From, are not converted to the nearest T.
template <class T, class From>
int mistakes() {
    std::vector<From> numbers;
    for (const double number : critical_numbers<T>())
        if (static_cast<double>(static_cast<From>(number)) < 0.99 * static_cast<double>(std::numeric_limits<T>::max()))
            numbers.push_back(static_cast<From>(number));
    const auto found = converted<T>(numbers);
    int wrong = 0;
    for (std::size_t i = 0; i < numbers.size(); ++i)
        wrong += bits_of(found[i]) != nearest_bits<T>(static_cast<double>(numbers[i]));
    return wrong;
}

}  // namespace

TEST_CASE("floats and doubles become the nearest number of 16 bits, ties to even") {
    CHECK(mistakes<half, float>() == 0);
    CHECK(mistakes<bfloat16, float>() == 0);
    CHECK(mistakes<half, double>() == 0);
    CHECK(mistakes<bfloat16, double>() == 0);
}

TEST_CASE("a double is rounded once, not first to a float and then again") {
    const double above_the_middle = 1 + 0x1p-11 + 0x1p-40;  // of 1 and the next half, 1 + 2^-10
    CHECK(static_cast<float>(converted<half>(std::vector<double>{above_the_middle})[0]) == 1 + 0x1p-10F);
    CHECK(static_cast<float>(half(static_cast<float>(above_the_middle))) == 1);  // which is the mistake
}

TEST_CASE("every number of 16 bits is exact in the wider types, and comes back") {
    std::vector<half> halves;
    std::vector<bfloat16> bfloats;
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        if (!std::isnan(static_cast<float>(from_bits<half>(static_cast<std::uint16_t>(bits)))))
            halves.push_back(from_bits<half>(static_cast<std::uint16_t>(bits)));
        if (!std::isnan(static_cast<float>(from_bits<bfloat16>(static_cast<std::uint16_t>(bits)))))
            bfloats.push_back(from_bits<bfloat16>(static_cast<std::uint16_t>(bits)));
    }
    const auto check = [](const auto& numbers) {
        using T = typename std::decay_t<decltype(numbers)>::value_type;
        const auto floats = converted<float>(numbers);
        const auto doubles = converted<double>(numbers);
        const auto again = converted<T>(doubles);
        int wrong = 0;
        for (std::size_t i = 0; i < numbers.size(); ++i)
            wrong += floats[i] != static_cast<float>(numbers[i]) || doubles[i] != static_cast<double>(floats[i]) ||
                     bits_of(again[i]) != bits_of(numbers[i]);
        CHECK(wrong == 0);
    };
    check(halves);
    check(bfloats);
}

TEST_CASE("each pair of types converts plain numbers") {
    const auto check = [](auto from, auto to) {
        using From = decltype(from);
        using To = decltype(to);
        const std::vector<From> numbers{From(0.5F), From(-3), From(0), From(96)};
        const auto found = converted<To>(numbers);
        for (std::size_t i = 0; i < numbers.size(); ++i)
            CHECK(static_cast<double>(found[i]) == static_cast<double>(numbers[i]));
    };
    const auto check_all = [&](auto from) {
        check(from, double());
        check(from, float());
        check(from, half());
        check(from, bfloat16());
    };
    check_all(double());
    check_all(float());
    check_all(half());
    check_all(bfloat16());
}

TEST_CASE("infinities and numbers that are none stay what they are") {
    const auto check = [](auto to) {
        const auto found = converted<decltype(to)>(std::vector<double>{INFINITY, -INFINITY, NAN, -0.0, 1e-300});
        CHECK(static_cast<double>(found[0]) == INFINITY);
        CHECK(static_cast<double>(found[1]) == -INFINITY);
        CHECK(std::isnan(static_cast<double>(found[2])));
        CHECK(std::signbit(static_cast<double>(found[3])));
        CHECK(std::abs(static_cast<double>(found[4])) <= 1e-300);
    };
    check(half());
    check(bfloat16());
    check(float());
}

TEST_CASE("a finite number beyond the type is refused") {
    const auto refusal = [](auto to, auto value) {
        return message_of([&] { return converted<decltype(to)>(std::vector<decltype(value)>{1, value}); });
    };
    CHECK(refusal(half(), 1e6F) == "f: t holds numbers beyond the range of half");
    CHECK(refusal(half(), -1e300) == "f: t holds numbers beyond the range of half");
    CHECK(refusal(half(), bfloat16(1e6F)) == "f: t holds numbers beyond the range of half");
    CHECK(refusal(half(), 65520.0F) == "f: t holds numbers beyond the range of half");
    CHECK(refusal(half(), 65519.0F).empty());
    CHECK(refusal(float(), 1e300) == "f: t holds numbers beyond the range of float");
    CHECK(refusal(bfloat16(), 3.4e38F) == "f: t holds numbers beyond the range of bfloat16");
    CHECK(refusal(bfloat16(), 3.38e38F).empty());
}

TEST_CASE("a tensor of the right type stays where it is") {
    const Sample<bfloat16> sample({bfloat16(1), bfloat16(2), bfloat16(3), bfloat16(4)}, 2);
    const auto matrix = host_matrix<bfloat16>(sample.view, 2, 2, {});
    CHECK(static_cast<const void*>(matrix.view.data()) == sample.view.bytes.data());
    CHECK(matrix.view.rows() == 2);
    CHECK(matrix.view.cols() == 2);
}

TEST_CASE("a tensor that is not aligned for its type is copied") {
    const Sample<float> sample({1, 2, 3}, 1);
    const auto matrix = host_matrix<float>(sample.view, 1, 3, {});
    CHECK(static_cast<const void*>(matrix.view.data()) != sample.view.bytes.data());
    CHECK(matrix.view(0, 2) == 3);
    CHECK(matrix.owner != nullptr);
    CHECK(converted<double>(std::vector<float>{1, 2, 3}, 3)[1] == 2);
}

TEST_CASE("a tensor longer than a block is converted to its end") {
    std::vector<float> numbers(100'003);
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i % 200);
    const auto found = converted<bfloat16>(numbers);
    int wrong = 0;
    for (std::size_t i = 0; i < numbers.size(); ++i) wrong += static_cast<float>(found[i]) != numbers[i];
    CHECK(wrong == 0);
}

TEST_CASE("a tensor that is not of floating point, or of another size, is refused") {
    const std::string bytes(8, '\0');
    const TensorView tensor{DType::i8, {8}, files::bytes_of(bytes), nullptr, "f: t"};
    CHECK(message_of([&] { return host_matrix<float>(tensor, 1, 8, {}); }) ==
          "f: t has the type I8, expected BF16, F16, F32 or F64");
    CHECK(message_of([&] { return host_matrix<float>(tensor, 1, 9, {}); }) == "f: t has 8 elements, expected 9");
}

TEST_CASE("a conversion under way stops when it is asked to") {
    constexpr Index count = Index{1} << 28;  // a good part of a second, and no memory before it is written
    const files::ScratchDirectory scratch;
    files::write(scratch / "zeros", "");
    std::filesystem::resize_file(scratch / "zeros", static_cast<std::uintmax_t>(count) * sizeof(bfloat16));
    const auto file = MappedFile::open(scratch / "zeros");
    const TensorView tensor{DType::bf16, {count}, file->bytes(), file, "f: t"};
    std::stop_source source;
    std::latch ready(2);
    const std::jthread stopper([&] {
        ready.arrive_and_wait();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        source.request_stop();
    });
    ready.arrive_and_wait();
    CHECK_THROWS_AS(static_cast<void>(host_matrix<float>(tensor, 1, count, source.get_token())), Cancelled);
}

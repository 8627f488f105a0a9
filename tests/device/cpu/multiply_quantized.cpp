#include <mistral/device/cpu/multiply_quantized.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "device/cpu/architectures.hpp"
#include "device/cpu/random_numbers.hpp"

using namespace mistral;

namespace {

struct ProductSize {
    Index tokens;
    Index outputs;
    Index inputs;
};

/// Products of random shapes against double precision on the weights that the matrix stands for. `precision` is half a
/// step of the activations' integers over the largest of a group.
template <class Q, class Architecture, int bits>
void check_products(double precision) {
    std::mt19937 random(6);
    BasicWorkspace<AlignedBuffer<std::byte>> workspace;
    for (const ProductSize& product : {ProductSize{1, 1, 1},
                                       {2, 3, 5},
                                       {3, 33, 64},
                                       {4, 32, 65},
                                       {5, 40, 200},
                                       {6, 65, 130},
                                       {7, 96, 300},
                                       {8, 40, 257},
                                       {9, 100, 130},
                                       {16, 31, 64},
                                       {40, 7, 96},
                                       {23, 70, 600},
                                       {131, 33, 257},
                                       {13, 3, 14336}}) {
        const Index tokens = product.tokens, outputs = product.outputs, inputs = product.inputs;
        CAPTURE(tokens);
        CAPTURE(outputs);
        CAPTURE(inputs);
        ThreadPool pool(2);
        const auto weights = random_numbers(outputs * inputs, random);
        const PackedMatrix<Q> matrix(pool, outputs, inputs, [&](Index row, float* to) {
            std::copy_n(weights.data() + row * inputs, inputs, to);
        });
        const auto x = random_numbers(tokens * inputs, random);
        const auto multiply = [&](ThreadPool& threads, Index first, Index count,
                                  cpu::CoreKind core_kind = cpu::core_kind_of_processor()) {
            std::vector<float> out(static_cast<std::size_t>(count * outputs), 1.0f);
            const std::array products{Product{matrix, MatrixView<float>(out.data(), count, outputs)}};
            cpu::multiply<Architecture, bits, Q>(threads, {x.data() + first * inputs, count, inputs}, products,
                                                 Update::add, core_kind, workspace);
            return out;
        };
        const auto out = multiply(pool, 0, tokens);
        double worst = 0;
        for (Index t = 0; t < tokens; ++t)
            for (Index r = 0; r < outputs; ++r) {
                double exact = 1;
                double bound = 1e-6;
                for (Index first = 0; first < inputs; first += group_size) {
                    double extreme = 0;
                    double magnitude = 0;
                    for (Index i = first; i < std::min(inputs, first + group_size); ++i) {
                        const double value = x[static_cast<std::size_t>(t * inputs + i)];
                        exact += value * matrix.weight(r, i);
                        extreme = std::max(extreme, std::abs(value));
                        magnitude += std::abs(static_cast<double>(matrix.weight(r, i)));
                    }
                    bound += (precision + 1e-6) * extreme * magnitude;
                }
                worst = std::max(worst, std::abs(out[static_cast<std::size_t>(t * outputs + r)] - exact) / bound);
            }
        CHECK(worst < 1);
        for (Index t = 0; t < tokens; ++t) {
            const auto alone = multiply(pool, t, 1);
            CHECK(std::memcmp(alone.data(), out.data() + t * outputs, alone.size() * sizeof(float)) == 0);
        }
        for (const auto core_kind : {cpu::CoreKind::common, cpu::CoreKind::zen5, cpu::CoreKind::intel})
            for (const Index count : {Index{1}, tokens})
                CHECK(multiply(pool, 0, count, core_kind) ==
                      std::vector<float>(out.begin(), out.begin() + count * outputs));
        for (const Index threads : {1, 3, 8}) {
            ThreadPool other(threads);
            CHECK(multiply(other, 0, tokens) == out);
        }
    }
}

/// More tokens, inputs and panels than are multiplied at once; and so many tokens that Q4 is unpacked for them
/// where that is faster.
template <class Q, class Architecture, int bits>
void check_pieces() {
    constexpr Index most_tokens = 23, outputs = 260, inputs = 14336;
    std::mt19937 random(8);
    ThreadPool pool(2);
    BasicWorkspace<AlignedBuffer<std::byte>> workspace;
    const auto weights = random_numbers(outputs * inputs, random);
    const PackedMatrix<Q> matrix(pool, outputs, inputs,
                                 [&](Index row, float* to) { std::copy_n(weights.data() + row * inputs, inputs, to); });
    const auto x = random_numbers(most_tokens * inputs, random);
    const auto multiply = [&](Index first, Index count, cpu::CoreKind core_kind = cpu::core_kind_of_processor()) {
        std::vector<float> out(static_cast<std::size_t>(count * outputs), 1.0f);
        const std::array products{Product{matrix, MatrixView<float>(out.data(), count, outputs)}};
        cpu::multiply<Architecture, bits, Q>(pool, {x.data() + first * inputs, count, inputs}, products, Update::add,
                                             core_kind, workspace);
        return out;
    };
    const auto out = multiply(0, most_tokens);
    for (Index t = 0; t < most_tokens; ++t)
        CHECK(multiply(t, 1) == std::vector<float>(out.begin() + t * outputs, out.begin() + (t + 1) * outputs));
    for (const auto core_kind : {cpu::CoreKind::common, cpu::CoreKind::zen5, cpu::CoreKind::intel})
        CHECK(multiply(0, most_tokens, core_kind) == out);
    CHECK(multiply(0, 13) == std::vector<float>(out.begin(), out.begin() + 13 * outputs));
}

/// Three tokens of which the second holds `odd` once.
template <class Q, class Architecture, int bits>
void check_spoilt(float odd) {
    constexpr Index inputs = 130, outputs = 5;
    std::mt19937 random(3);
    ThreadPool pool(1);
    BasicWorkspace<AlignedBuffer<std::byte>> workspace;
    const auto weights = random_numbers((outputs - 1) * inputs, random);  // the last row is zero
    const PackedMatrix<Q> matrix(pool, outputs, inputs, [&](Index row, float* to) {
        std::fill_n(to, inputs, 0.0f);
        if (row + 1 < outputs) std::copy_n(weights.data() + row * inputs, inputs, to);
    });
    const auto multiply = [&](const std::vector<float>& x) {
        const auto tokens = static_cast<Index>(x.size()) / inputs;
        std::vector<float> out(static_cast<std::size_t>(tokens * outputs));
        const std::array products{Product{matrix, MatrixView<float>(out.data(), tokens, outputs)}};
        cpu::multiply<Architecture, bits, Q>(pool, {x.data(), tokens, inputs}, products, Update::assign,
                                             cpu::core_kind_of_processor(), workspace);
        return out;
    };
    const auto plain = random_numbers(3 * inputs, random);
    const auto without = multiply(plain);
    for (const Index at : {0, 63, 100, 129}) {
        auto x = plain;
        x[static_cast<std::size_t>(inputs + at)] = odd;
        const auto out = multiply(x);
        for (std::size_t i = 0; i < out.size(); ++i)
            CHECK((i / outputs == 1 ? std::isnan(out[i]) : out[i] == without[i]));
    }
}

}  // namespace

TEST_CASE_TEMPLATE(
    "quantised products agree with double precision to the activations' rounding, with the same bits "
    "alone and in a chunk, on any number of threads",
    Architecture, MISTRAL_TEST_ARCHITECTURES) {
    check_products<Q8, Architecture, 8>(0.5 / 127);
    check_products<Q8, Architecture, 15>(0.5 / 16319);
    check_products<Q4, Architecture, 8>(0.5 / 127);
    check_products<Q4, Architecture, 15>(0.5 / 16319);
}

TEST_CASE_TEMPLATE("tokens that are multiplied piece by piece have the bits that each has alone", Architecture,
                   MISTRAL_TEST_ARCHITECTURES) {
    check_pieces<Q8, Architecture, 8>();
    check_pieces<Q8, Architecture, 15>();
    check_pieces<Q4, Architecture, 8>();
    check_pieces<Q4, Architecture, 15>();
}

TEST_CASE_TEMPLATE("a token that holds a NaN or an infinity has outputs of NaN only, and the others stay as they are",
                   Architecture, MISTRAL_TEST_ARCHITECTURES) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    for (const float odd : {nan, -nan, infinity, -infinity}) {
        check_spoilt<Q8, Architecture, 8>(odd);
        check_spoilt<Q8, Architecture, 15>(odd);
        check_spoilt<Q4, Architecture, 8>(odd);
        check_spoilt<Q4, Architecture, 15>(odd);
    }
}

TEST_CASE("groups of numbers so small that their scale has no inverse count as zero, and those above do not") {
    for (const float tiny : {std::numeric_limits<float>::denorm_min(), 1e-38f, 4e-35f}) {
        GroupValues x{};
        x[7] = tiny;
        const cpu::TokenGroup<15, std::int8_t> group(x);
        CHECK(group.scale < 1e-37f);
        CHECK(std::ranges::all_of(group.digits[0], [](int digit) { return digit == 0; }));
        CHECK(std::ranges::all_of(group.digits[1], [](int digit) { return digit == 0; }));
        CHECK(group.offsets == std::array<std::int32_t, 2>{});
    }
    using Coarse = cpu::TokenGroup<8, std::int8_t>;
    GroupValues x{};
    x[7] = -2e-34f;
    CHECK(Coarse(x).digits[0][7] == -127);
    x[7] = std::numeric_limits<float>::max();
    CHECK(Coarse(x).digits[0][7] == 127);
    CHECK(std::isfinite(Coarse(x).scale));
}

TEST_CASE("activations of zero, and the largest, are kept") {
    using Group = cpu::TokenGroup<15, std::int8_t>;
    GroupValues x{};
    CHECK(Group(x).scale == 0);
    x[3] = -5;
    x[4] = 5;
    x[5] = 2.5f;
    const Group group(x);
    const auto value = [&](std::size_t i) {
        return static_cast<float>(128 * group.digits[0][i] + group.digits[1][i]) * group.scale * level_unit;
    };
    CHECK(value(3) == doctest::Approx(-5));
    CHECK(value(4) == doctest::Approx(5));
    CHECK(value(5) == doctest::Approx(2.5).epsilon(1e-4));
    CHECK(value(6) == 0);
    CHECK(group.offsets[0] == -128 * (group.digits[0][5]));
}

TEST_CASE("numbers of 16 bits are the planes of digits joined, the second and third of every four in turn") {
    std::mt19937 random(4);
    GroupValues x{};
    std::ranges::copy(random_numbers(group_size, random), x.begin());
    const cpu::TokenGroup<15, std::int8_t> planes(x);
    const cpu::TokenGroup<15, std::int16_t> whole(x);
    CHECK(whole.scale == planes.scale);
    constexpr std::array<std::size_t, 4> place{0, 2, 1, 3};
    for (std::size_t i = 0; i < x.size(); ++i)
        CHECK(whole.digits[0][i / 4 * 4 + place[i % 4]] == 128 * planes.digits[0][i] + planes.digits[1][i]);
}

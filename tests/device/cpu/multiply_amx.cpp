#include <mistral/device/cpu/multiply_amx.hpp>

#include <mistral/base/aligned_buffer.hpp>
#include <mistral/base/host_matrix.hpp>
#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

#include "device/cpu/architectures.hpp"
#include "device/cpu/random_numbers.hpp"

using namespace mistral;

TEST_CASE("a device that is not to use tiles multiplies by vectors, of float where that is faster") {
    using FloatSet =
        std::conditional_t<std::same_as<NativeInstructionSet, Avx512Dot>, Avx512Float, NativeInstructionSet>;
    constexpr Index most_tokens = 100, outputs = 40, inputs = 200;
    std::mt19937 random(7);
    const auto x = random_numbers(most_tokens * inputs, random);
    std::vector<bfloat16> weights;
    for (const float weight : random_numbers(outputs * inputs, random))
        weights.push_back(static_cast<bfloat16>(weight));
    const HostMatrix<bfloat16> matrix{{weights.data(), outputs, inputs}, nullptr};
    const Cpu device({.threads = 2, .amx = false});
    Cpu::Workspace workspace;
    for (const Index tokens : {Index{1}, Index{20}, most_tokens}) {
        std::vector<float> out(static_cast<std::size_t>(tokens * outputs)), expected = out;
        const auto product = [&](std::vector<float>& to) {
            return Product{matrix, MatrixView<float>(to.data(), tokens, outputs)};
        };
        device.multiply({x.data(), tokens, inputs}, std::array{product(out)}, Update::assign, workspace);
        ThreadPool pool(2);
        const auto multiply_by_vectors = [&]<class Set>(Set, const Product<HostMatrix<bfloat16>, float>& by_vectors) {
            cpu::multiply<Set, bfloat16>(pool, {x.data(), tokens, inputs}, std::span(&by_vectors, 1), Update::assign,
                                         cpu::core_kind_of_processor(), workspace);
        };
        if (cpu::multiplies_faster_in_float())
            multiply_by_vectors(FloatSet{}, product(expected));
        else
            multiply_by_vectors(NativeInstructionSet{}, product(expected));
        CHECK(out == expected);
    }
}

#if defined(MISTRAL_HAS_AVX512_DOT)
namespace {

double rounded(float x) {
    return static_cast<double>(static_cast<bfloat16>(x));
}

template <class Q>
PackedMatrix<Q> packed(ThreadPool& pool, const std::vector<float>& weights, Index outputs, Index inputs) {
    const float* from = weights.data();
    return {pool, outputs, inputs,
            [from, inputs](Index row, float* to) { std::copy_n(from + row * inputs, inputs, to); }};
}

/// out = 1 + the products of x [tokens, inputs] by tiles.
template <class Q>
std::vector<float> multiply(ThreadPool& pool, const PackedMatrix<Q>& weights, const float* x, Index tokens) {
    BasicWorkspace<AlignedBuffer<std::byte>> workspace;
    std::vector<float> out(static_cast<std::size_t>(tokens * weights.rows()), 1.0f);
    const Product product{weights, MatrixView<float>(out.data(), tokens, weights.rows())};
    cpu::multiply<Amx, Q>(pool, {x, tokens, weights.cols()}, std::span(&product, 1), Update::add, workspace);
    return out;
}

}  // namespace

TEST_CASE_TEMPLATE("by tiles, quantised products agree with double precision on numbers rounded to bfloat16" *
                       doctest::skip(!has_tiles()),
                   Q, Q8, Q4) {
    std::mt19937 random(8);
    // Around the sizes of tiles, of steps that are unpacked at once and of tasks; one of each.
    const std::vector<std::array<Index, 3>> shapes{{1, 1, 1},      {2, 33, 64},    {15, 31, 65},   {16, 64, 128},
                                                   {17, 40, 511},  {32, 5, 512},   {33, 97, 513},  {70, 130, 1100},
                                                   {530, 70, 100}, {512, 300, 40}, {512, 300, 600}};
    for (const auto& shape : shapes) {
        const Index tokens = shape[0], outputs = shape[1], inputs = shape[2];
        CAPTURE(tokens);
        CAPTURE(outputs);
        CAPTURE(inputs);
        ThreadPool pool(2);
        const auto matrix = packed<Q>(pool, random_numbers(outputs * inputs, random), outputs, inputs);
        const auto x = random_numbers(tokens * inputs, random);
        const auto out = multiply(pool, matrix, x.data(), tokens);
        double worst = 0;
        for (Index t = 0; t < tokens; ++t)
            for (Index r = 0; r < outputs; ++r) {
                double exact = 1;
                double magnitude = 1;
                for (Index i = 0; i < inputs; ++i) {
                    const double product =
                        rounded(x[static_cast<std::size_t>(t * inputs + i)]) * rounded(matrix.weight(r, i));
                    exact += product;
                    magnitude += std::abs(product);
                }
                worst = std::max(worst, std::abs(out[static_cast<std::size_t>(t * outputs + r)] - exact) / magnitude);
            }
        // As for other products: partial sums round as often as they are long.
        CHECK(worst < 2e-6);

        for (Index t = 0; t < tokens; t += 7) {
            const auto alone = multiply(pool, matrix, x.data() + t * inputs, 1);
            CHECK(std::memcmp(alone.data(), out.data() + t * outputs, alone.size() * sizeof(float)) == 0);
        }
        for (const Index threads : {1, 3, 8}) {
            ThreadPool other(threads);
            CHECK(multiply(other, matrix, x.data(), tokens) == out);
        }
    }
}

TEST_CASE_TEMPLATE("by tiles of bytes, quantised products have the bits that they have without" *
                       doctest::skip(!has_tiles()),
                   Q, Q8, Q4) {
    std::mt19937 random(11);
    const auto check = [&]<int bits>(std::integral_constant<int, bits>, Index tokens, Index outputs, Index inputs) {
        CAPTURE(bits);
        CAPTURE(tokens);
        CAPTURE(outputs);
        CAPTURE(inputs);
        ThreadPool pool(2);
        const auto matrix = packed<Q>(pool, random_numbers(outputs * inputs, random), outputs, inputs);
        auto x = random_numbers(tokens * inputs, random);
        x.back() = std::numeric_limits<float>::infinity();  // makes its token NaN, and no other
        const auto multiply_by = [&]<class Set>(ThreadPool& on, Set) {
            BasicWorkspace<AlignedBuffer<std::byte>> workspace;
            std::vector<float> out(static_cast<std::size_t>(tokens * outputs), 1.0f);
            const Product product{matrix, MatrixView<float>(out.data(), tokens, outputs)};
            cpu::multiply<Set, bits, Q>(on, {x.data(), tokens, inputs}, std::span(&product, 1), Update::add,
                                        cpu::core_kind_of_processor(), workspace);
            return out;
        };
        const auto expected = multiply_by(pool, Avx512Dot{});
        CHECK(std::isnan(expected.back()));
        for (const Index threads : {1, 2, 3, 8}) {
            ThreadPool on(threads);
            const auto out = multiply_by(on, Amx{});
            CHECK(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)) == 0);
        }
    };
    // Around the tokens from which on tiles are used, around tiles of tokens, around panels and groups; and several
    // tasks of tokens.
    for (const Index tokens : {1, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33})
        for (const Index outputs : {1, 32, 70})
            for (const Index inputs : {1, 64, 200}) {
                check(std::integral_constant<int, 15>{}, tokens, outputs, inputs);
                check(std::integral_constant<int, 8>{}, tokens, outputs, inputs);
            }
    check(std::integral_constant<int, 15>{}, 130, 40, 2100);
    check(std::integral_constant<int, 8>{}, 130, 40, 2100);
}

TEST_CASE("by tiles, results that are written past the caches are those of a few tokens, and nothing between them" *
          doctest::skip(!has_tiles())) {
    // More than a block of tokens and of outputs, with a few left over; 4 MB of results.
    constexpr Index tokens = 513, outputs = 2056, inputs = 40, stride = 2064;
    std::mt19937 random(12);
    ThreadPool pool(1);
    BasicWorkspace<AlignedBuffer<std::byte>> workspace;
    const auto numbers = random_numbers(outputs * inputs, random);
    const std::vector<bfloat16> rows(numbers.begin(), numbers.end());
    const HostMatrix<bfloat16> weights{{rows.data(), outputs, inputs}, nullptr};
    const auto x = random_numbers(tokens * inputs, random);
    const auto multiply = [&](Index first, Index count, MatrixView<float> out) {
        const Product product{weights, out};
        cpu::multiply<Amx, bfloat16>(pool, {x.data() + first * inputs, count, inputs}, std::span(&product, 1),
                                     Update::assign, workspace);
    };
    AlignedBuffer<float> memory(tokens * stride);
    std::fill_n(memory.data(), memory.size(), std::numeric_limits<float>::quiet_NaN());
    const MatrixView<float> out(memory.data(), tokens, outputs, stride);
    multiply(0, tokens, out);
    std::vector<float> few(static_cast<std::size_t>(32 * outputs));
    for (Index token = 0; token < tokens; ++token) {
        if (token % 32 == 0) {
            const Index count = std::min<Index>(32, tokens - token);
            multiply(token, count, {few.data(), count, outputs});
        }
        const float* const expected = few.data() + token % 32 * outputs;
        CHECK(std::equal(expected, expected + outputs, out.row(token)));
        CHECK(std::all_of(out.row(token) + outputs, out.row(token) + stride, [](float f) { return std::isnan(f); }));
    }
}

TEST_CASE(
    "by tiles, rows of bfloat16 that lie apart are multiplied as rows side by side, by hundreds of tokens or few" *
    doctest::skip(!has_tiles())) {
    constexpr Index tokens = 600, outputs = 50, inputs = 70, stride = 83;
    std::mt19937 random(10);
    ThreadPool pool(2);
    // What lies between rows must not count.
    std::vector<bfloat16> apart(static_cast<std::size_t>(outputs * stride), std::numeric_limits<bfloat16>::quiet_NaN());
    std::vector<bfloat16> together(static_cast<std::size_t>(outputs * inputs));
    for (bfloat16& weight : together) weight = static_cast<bfloat16>(std::normal_distribution<float>()(random));
    for (Index r = 0; r < outputs; ++r) std::copy_n(together.begin() + r * inputs, inputs, apart.begin() + r * stride);
    const auto x = random_numbers(tokens * inputs, random);
    const auto multiply_by = [&](const bfloat16* weights, Index step, Index first, Index count) {
        BasicWorkspace<AlignedBuffer<std::byte>> workspace;
        std::vector<float> out(static_cast<std::size_t>(count * outputs));
        const HostMatrix<bfloat16> matrix{{weights, outputs, inputs, step}, nullptr};
        const Product product{matrix, MatrixView<float>(out.data(), count, outputs)};
        cpu::multiply<Amx, bfloat16>(pool, {x.data() + first * inputs, count, inputs}, std::span(&product, 1),
                                     Update::assign, workspace);
        return out;
    };
    const auto out = multiply_by(apart.data(), stride, 0, tokens);
    CHECK(out == multiply_by(together.data(), inputs, 0, tokens));
    for (const Index count : {1, 2, 15, 16, 17, 31, 32, 33}) {  // around what few tokens are, and around tiles
        CAPTURE(count);
        const auto few = multiply_by(apart.data(), stride, 40, count);
        CHECK(std::equal(few.begin(), few.end(), out.begin() + 40 * outputs));
    }
    double worst = 0;
    for (Index t = 0; t < tokens; ++t)
        for (Index r = 0; r < outputs; ++r) {
            double exact = 0;
            for (Index i = 0; i < inputs; ++i)
                exact += rounded(x[static_cast<std::size_t>(t * inputs + i)]) *
                         static_cast<double>(together[static_cast<std::size_t>(r * inputs + i)]);
            worst = std::max(worst, std::abs(out[static_cast<std::size_t>(t * outputs + r)] - exact));
        }
    CHECK(worst < 1e-4);  // sums of 70 products of order 1 round to within 1e-5 of a few dozen
}

TEST_CASE("balanced prompts are multiplied by tiles, and neither short passes nor those of other precisions" *
          doctest::skip(!has_tiles())) {
    constexpr Index outputs = 40, inputs = 200;
    std::mt19937 random(9);
    ThreadPool pool(2);
    const auto matrix = packed<Q8>(pool, random_numbers(outputs * inputs, random), outputs, inputs);
    const auto x = random_numbers((always_precise_tokens + 1) * inputs, random);
    for (const auto precision :
         {ActivationPrecision::precise, ActivationPrecision::balanced, ActivationPrecision::fast})
        for (const Index tokens : {always_precise_tokens, always_precise_tokens + 1}) {
            const Cpu device({.threads = 2, .activation_precision = precision});
            Cpu::Workspace workspace;
            std::vector<float> out(static_cast<std::size_t>(tokens * outputs), 1.0f);
            device.multiply({x.data(), tokens, inputs},
                            std::array{Product{matrix, MatrixView<float>(out.data(), tokens, outputs)}}, Update::add,
                            workspace);
            const bool is_by_tiles = precision == ActivationPrecision::balanced && tokens > always_precise_tokens;
            CHECK((out == multiply(pool, matrix, x.data(), tokens)) == is_by_tiles);
        }
}
#endif

#include <mistral/device/cpu/multiply_amx.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

using namespace mistral;

#if defined(MISTRAL_HAS_AVX512_DOT)
namespace {

std::vector<float> numbers(Index count, std::mt19937& random) {
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = normal(random);
    return values;
}

double rounded(float x) {
    return static_cast<double>(static_cast<bfloat16>(x));
}

/// out = 1 + the products of x [tokens, inputs] by tiles.
template <class Q>
std::vector<float> multiply(ThreadPool& pool, const PackedMatrix<Q>& weights, const float* x, Index tokens) {
    BasicWorkspace<AlignedBuffer<std::byte>> workspace;
    std::vector<float> out(static_cast<std::size_t>(tokens * weights.rows()), 1.0f);
    const Product product{weights, MatrixView<float>(out.data(), tokens, weights.rows())};
    cpu::multiply_by_amx(pool, {x, tokens, weights.cols()}, std::span(&product, 1), Update::add, workspace);
    return out;
}

}  // namespace

TEST_CASE_TEMPLATE("by tiles, quantised products agree with double precision on numbers rounded to bfloat16" *
                       doctest::skip(!cpu::amx_is_available()),
                   Q, Q8, Q4) {
    std::mt19937 random(8);
    // Around the sizes of tiles, of steps that are unpacked at once and of tasks; one of each.
    const std::vector<std::array<Index, 3>> shapes{{1, 1, 1},     {2, 33, 64},     {15, 31, 65},
                                                   {16, 64, 128}, {17, 40, 511},   {32, 5, 512},
                                                   {33, 97, 513}, {70, 130, 1100}, {530, 70, 100}};
    for (const auto& shape : shapes) {
        const Index tokens = shape[0], outputs = shape[1], inputs = shape[2];
        CAPTURE(tokens);
        CAPTURE(outputs);
        CAPTURE(inputs);
        ThreadPool pool(2);
        const auto weights = numbers(outputs * inputs, random);
        const float* from = weights.data();
        const PackedMatrix<Q> matrix(pool, outputs, inputs, [from, count = inputs](Index row, float* to) {
            std::copy_n(from + row * count, count, to);
        });
        const auto x = numbers(tokens * inputs, random);
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

TEST_CASE("balanced prompts are multiplied by tiles, and neither short passes nor those of other precisions" *
          doctest::skip(!cpu::amx_is_available())) {
    constexpr Index outputs = 40, inputs = 200;
    std::mt19937 random(9);
    ThreadPool pool(2);
    const auto weights = numbers(outputs * inputs, random);
    const PackedMatrix<Q8> matrix(
        pool, outputs, inputs, [&](Index row, float* to) { std::copy_n(weights.data() + row * inputs, inputs, to); });
    const auto x = numbers((always_precise_tokens + 1) * inputs, random);
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

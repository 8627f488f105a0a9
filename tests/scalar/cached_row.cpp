#include <mistral/scalar/cached_row.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

using namespace mistral;

namespace {

using Row = CachedRow<Q8>;

constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<std::int8_t> written(const std::vector<float>& x) {
    const auto head_dim = static_cast<Index>(x.size());
    std::vector<std::int8_t> row(static_cast<std::size_t>(Row::size(head_dim)));
    Row::write(x.data(), head_dim, row.data());
    return row;
}

/// What the row stands for.
std::vector<double> held(const std::vector<float>& x) {
    const auto row = written(x);
    const double scale = Row::scale(row.data(), static_cast<Index>(x.size()));
    std::vector<double> numbers;
    for (std::size_t i = 0; i < x.size(); ++i) numbers.push_back(row[i] * scale);
    return numbers;
}

}  // namespace

TEST_CASE("a row of Q8 is a byte per element and two for the scale, other rows are their elements") {
    CHECK(Row::size(128) == 130);
    CHECK(CachedRow<bfloat16>::size(128) == 128);
    const std::vector<float> x{1.0f, -0.7f, 3.1415927f};
    std::vector<bfloat16> row(3);
    CachedRow<bfloat16>::write(x.data(), 3, row.data());
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(row[i] == static_cast<bfloat16>(x[i]));
}

TEST_CASE("every element is the nearest multiple of the scale, which is 1 / 127 of the largest magnitude, rounded") {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (const int exponent : {-130, -120, -10, 0, 100}) {
        for (std::size_t head_dim = 1; head_dim < 150; ++head_dim) {
            std::vector<float> x(head_dim);
            double largest = 0;
            for (float& element : x) {
                element = std::ldexp(normal(random), exponent);
                largest = std::max(largest, std::abs(static_cast<double>(element)));
            }
            const double scale = Row::scale(written(x).data(), static_cast<Index>(head_dim));
            const double coarsest = std::ldexp(1.0, -133);  // of bfloat16, below the normal numbers
            CHECK(std::abs(scale - largest / 127) <= std::max(largest / 127 / 256, coarsest / 2));
            const auto numbers = held(x);
            double worst = 0;
            for (std::size_t i = 0; i < head_dim; ++i) worst = std::max(worst, std::abs(numbers[i] - x[i]));
            CHECK(worst <= std::max(0.5001 * scale, largest - 127 * scale));  // what a smaller scale cuts off
        }
    }
    CHECK(held({-127, 63.6f, 126.4f, 0}) == std::vector<double>{-127, 64, 126, 0});
}

TEST_CASE("zeros stay zeros, numbers at the ends of their range are held, and what is not finite makes a row NaN") {
    CHECK(held({0, -0.0f, 0}) == std::vector<double>{0, 0, 0});
    constexpr float largest = std::numeric_limits<float>::max(), smallest = std::numeric_limits<float>::denorm_min();
    CHECK(held({largest, 0})[0] == doctest::Approx(largest).epsilon(1.0 / 254));
    CHECK(held({smallest, 0}) == std::vector<double>{0, 0});
    for (const float x : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()})
        for (const double number : held({1, x, 2})) CHECK(std::isnan(number));
}

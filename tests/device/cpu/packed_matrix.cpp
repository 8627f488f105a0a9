#include <mistral/base/checksum.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

using namespace mistral;

namespace {

/// A matrix [rows, cols] of the levels that level(row, col) gives under scales of 1, which quantisation finds exactly
/// wherever a group has one of -127.
template <QuantizedScalar Q, class Level>
PackedMatrix<Q> matrix_of_levels(Index rows, Index cols, Level&& level) {
    ThreadPool pool(1);
    return PackedMatrix<Q>(pool, rows, cols, [&](Index row, float* to) {
        for (Index col = 0; col < cols; ++col)
            to[col] = col % group_size == 0 ? -127 / level_unit : static_cast<float>(level(row, col)) / level_unit;
    });
}

}  // namespace

TEST_CASE_TEMPLATE("every weight of every shape is what its group's quantisation says, for any number of threads", Q,
                   Q8, Q4) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (const Index rows : {1, 31, 32, 33, 100})
        for (const Index cols : {1, 4, 63, 64, 65, 200}) {
            std::vector<float> weights(static_cast<std::size_t>(rows * cols));
            for (float& weight : weights) weight = normal(random);
            const auto read = [&](Index row, float* to) { std::copy_n(weights.data() + row * cols, cols, to); };
            ThreadPool pool(3);
            const PackedMatrix<Q> matrix(pool, rows, cols, read);
            REQUIRE(matrix.rows() == rows);
            REQUIRE(matrix.cols() == cols);
            int different = 0;
            for (Index row = 0; row < rows; ++row)
                for (Index first = 0; first < cols; first += group_size) {
                    GroupValues group{};
                    const Index n = std::min(group_size, cols - first);
                    std::copy_n(weights.data() + row * cols + first, n, group.begin());
                    const auto quantized = quantize<Q>(group);
                    for (Index i = 0; i < n; ++i) different += matrix.weight(row, first + i) != quantized.weight(i);
                }
            CHECK(different == 0);
        }
}

TEST_CASE("a group takes the bits that the format promises, in whole cache lines") {
    CHECK(PackedMatrix<Q8>::group_bytes * 8 == 32 * 64 * 8.25);
    CHECK(PackedMatrix<Q4>::group_bytes * 8 == 32 * 64 * 4.25);
    CHECK(PackedMatrix<Q8>::group_bytes % 64 == 0);
    CHECK(PackedMatrix<Q4>::group_bytes % 64 == 0);
}

TEST_CASE_TEMPLATE("a matrix at another address is made of its bytes, and shares them with their owner", Q, Q8, Q4) {
    const auto made = matrix_of_levels<Q>(33, 130, [](Index row, Index col) { return (row * 7 + col) % 100; });
    REQUIRE(made.bytes().size() == static_cast<std::size_t>(PackedMatrix<Q>::bytes_of(33, 130)));
    const auto copy = std::make_shared<AlignedBuffer<std::byte>>(PackedMatrix<Q>::bytes_of(33, 130));
    std::memcpy(copy->data(), made.bytes().data(), made.bytes().size());
    const PackedMatrix<Q> mapped(copy, copy->data(), 33, 130);
    CHECK(mapped.rows() == 33);
    CHECK(mapped.cols() == 130);
    CHECK(mapped.bytes().data() == copy->data());
    CHECK(copy.use_count() == 2);
    int different = 0;
    for (Index row = 0; row < 33; ++row)
        for (Index col = 0; col < 130; ++col) different += mapped.weight(row, col) != made.weight(row, col);
    CHECK(different == 0);
}

// Who changes the order has files read in the wrong one, unless its name in `layout` changes, too.
TEST_CASE("the order of the bytes is the one that stands under this name in files") {
    const auto checksum = [](const auto& matrix) {
        Checksum sum;
        sum.add(matrix.bytes());
        return sum.value();
    };
    const auto any_level = [](Index row, Index col) { return (row * 31 + col * 17) % 255 - 127; };
    const auto q4_level = [](Index row, Index col) {
        return q4_levels[static_cast<std::size_t>((row * 5 + col * 3) % 16)];
    };
    CHECK(PackedMatrix<Q8>::layout == "panels of 32 rows, version 1");
    CHECK(PackedMatrix<Q4>::layout == "panels of 32 rows, version 1");
    CHECK(checksum(matrix_of_levels<Q8>(33, 128, any_level)) == 7803959276200443660);
    CHECK(checksum(matrix_of_levels<Q4>(33, 128, q4_level)) == 3565650004475689573);
}

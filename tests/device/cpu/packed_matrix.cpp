#include <mistral/device/cpu/packed_matrix.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <random>
#include <vector>

using namespace mistral;

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

TEST_CASE_TEMPLATE("panels made elsewhere are used where they are, and kept", Q, Q8, Q4) {
    ThreadPool pool(1);
    const PackedMatrix<Q> matrix(pool, 40, 70,
                                 [](Index row, float* to) { std::fill_n(to, 70, static_cast<float>(row)); });
    auto owner = std::make_shared<std::vector<std::byte>>(matrix.panel(0), matrix.panel(matrix.panels()));
    const PackedMatrix<Q> same(40, 70, owner->data(), owner);
    CHECK(same.panel(1) == owner->data() + matrix.panel_bytes());
    owner.reset();
    for (const Index row : {0, 31, 32, 39}) CHECK(same.weight(row, 69) == matrix.weight(row, 69));
}

TEST_CASE("a group takes the bits that the format promises, in whole cache lines") {
    CHECK(PackedMatrix<Q8>::group_bytes * 8 == 32 * 64 * 8.25);
    CHECK(PackedMatrix<Q4>::group_bytes * 8 == 32 * 64 * 4.25);
    CHECK(PackedMatrix<Q8>::group_bytes % 64 == 0);
    CHECK(PackedMatrix<Q4>::group_bytes % 64 == 0);
}

#include <mistral/model/linear.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <vector>

#include "kernels.hpp"

using namespace mistral;

TEST_CASE("a linear map assigns or adds x times the transposed weights") {
    const std::vector<float> weights{1, 2, 3, 10, 20, 30};
    const Linear<float, Cpu> map(Cpu(1), {{weights.data(), 2, 3}, nullptr}, 2, 3, "test");
    CHECK(map.inputs() == 3);
    CHECK(map.outputs() == 2);
    const std::vector<float> x{1, 1, 1, 0, 1, 2};
    std::vector<float> out(4, 7);
    Cpu::Workspace workspace;
    map.forward({x.data(), 2, 3}, {out.data(), 2, 2}, workspace);
    CHECK(out == std::vector<float>{6, 60, 8, 80});
    map.forward({x.data(), 2, 3}, {out.data(), 2, 2}, workspace, Update::add);
    CHECK(out == std::vector<float>{12, 120, 16, 160});
}

TEST_CASE("wrong shapes are refused and nothing is written") {
    const std::vector<float> weights(6, 1);
    const Linear<float, Cpu> map(Cpu(1), {{weights.data(), 2, 3}, nullptr}, 2, 3, "test");
    const std::vector<float> x(8, 1);
    std::vector<float> out(8, 7);
    Cpu::Workspace workspace;
    const auto forward = [&](Index rows, Index inputs, Index out_rows, Index outputs) {
        map.forward({x.data(), rows, inputs}, {out.data(), out_rows, outputs}, workspace);
    };
    CHECK_THROWS_WITH_AS(forward(2, 4, 2, 2), "a linear map from [2, 4] to [2, 2], expected rows of 3 and 2 elements",
                         Error);
    CHECK_THROWS_AS(forward(2, 3, 1, 2), Error);
    CHECK_THROWS_AS(forward(2, 3, 2, 3), Error);
    CHECK(out == std::vector<float>(8, 7));
}

TEST_CASE("weights of another shape are refused by name") {
    const std::vector<float> weights(6);
    CHECK_THROWS_WITH_AS((Linear<float, Cpu>(Cpu(1), {{weights.data(), 2, 3}, nullptr}, 3, 2, "gate")),
                         "the gate weights are [2, 3], expected [3, 2]", Error);
}

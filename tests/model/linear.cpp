#include <mistral/model/linear.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <vector>

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

TEST_CASE("weights of another shape are refused by name") {
    const std::vector<float> weights(6);
    CHECK_THROWS_WITH_AS((Linear<float, Cpu>(Cpu(1), {{weights.data(), 2, 3}, nullptr}, 3, 2, "gate")),
                         "the gate weights are [2, 3], expected [3, 2]", Error);
}

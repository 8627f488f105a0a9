#include <mistral/model/rms_norm.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <vector>

#include "goldens.hpp"

using namespace mistral;

TEST_CASE_TEMPLATE("the norm agrees with transformers, in float64 and as it comes", S, double, float) {
    const auto file = goldens::components();
    goldens::for_each_component("rms_norm", [&](const nlohmann::json& component, const std::string& name) {
        CAPTURE(name);
        const RMSNorm<S, Cpu> norm(Cpu(2), file.matrix(name + "weight").host<S>(), component.at("eps"));
        const auto x = file.matrix(name + "x");
        const auto input = x.host<S>();
        std::vector<S> out(x.values.size());
        Cpu::Workspace workspace;
        norm.forward(input.view, {out.data(), x.rows, x.cols}, workspace);
        goldens::check_component<S>(file, name, {out.data(), x.rows, x.cols});
    });
}

TEST_CASE("the norm works in place, and its weights' type decides that of activations") {
    static_assert(std::same_as<RMSNorm<bfloat16, Cpu>::A, float>);
    const std::vector<float> weight{1, 2};
    const RMSNorm<bfloat16, Cpu> norm(Cpu(1), {{weight.data(), 1, 2}, nullptr}, 0.0);
    std::vector<float> x{3, 3};
    Cpu::Workspace workspace;
    norm.forward(MatrixView<float>(x.data(), 1, 2), {x.data(), 1, 2}, workspace);
    CHECK(x == std::vector<float>{1, 2});
}

TEST_CASE("shapes and an eps that make no sense are refused") {
    const std::vector<float> numbers(8);
    const HostMatrix<float> weight{{numbers.data(), 1, 4}, nullptr};
    CHECK_THROWS_WITH_AS((RMSNorm<float, Cpu>(Cpu(1), {{numbers.data(), 2, 4}, nullptr}, 1e-5)),
                         "the norm's weight is [2, 4], expected [1, hidden_size]", Error);
    for (const double eps : {-1e-5, 1.0, double(NAN), double(INFINITY)})
        CHECK_THROWS_AS((RMSNorm<float, Cpu>(Cpu(1), weight, eps)), Error);
    const RMSNorm<float, Cpu> norm(Cpu(1), weight, 1e-5);
    std::vector<float> out(8);
    Cpu::Workspace workspace;
    CHECK_THROWS_WITH_AS(norm.forward({numbers.data(), 2, 3}, {out.data(), 2, 3}, workspace),
                         "the norm of [2, 3] into [2, 3], expected rows of 4 elements", Error);
}

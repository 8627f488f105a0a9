#include <mistral/model/feed_forward.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <vector>

#include "device/cpu/architectures.hpp"
#include "goldens.hpp"

using namespace mistral;

TEST_CASE_TEMPLATE("the layer agrees with transformers, in float64 and as it comes", S, double, float, half, bfloat16) {
    using A = Activation<S>;
    const auto file = goldens::components();
    goldens::for_each_component("feed_forward", [&](const nlohmann::json&, const std::string& name) {
        CAPTURE(name);
        const FeedForward<S, FloatCpu> layer(FloatCpu(2), {.gate = file.matrix(name + "gate_proj.weight").host<S>(),
                                                           .up = file.matrix(name + "up_proj.weight").host<S>(),
                                                           .down = file.matrix(name + "down_proj.weight").host<S>()});
        const auto x = file.matrix(name + "x");
        const auto input = x.host<A>();
        std::vector<A> out(x.values.size());
        FloatCpu::Workspace workspace;
        layer.forward(input.view, {out.data(), x.rows, x.cols}, workspace);
        goldens::check_component<A>(file, name, {out.data(), x.rows, x.cols});
    });
}

TEST_CASE("maps that contradict each other are refused by name") {
    const std::vector<float> numbers(64);
    const auto matrix = [&](Index rows, Index cols) {
        return HostMatrix<float>{{numbers.data(), rows, cols}, nullptr};
    };
    CHECK_THROWS_WITH_AS((FeedForward<float, FloatCpu>(FloatCpu(1), {matrix(6, 4), matrix(6, 5), matrix(4, 6)})),
                         "the up weights are [6, 5], expected [6, 4]", Error);
    CHECK_THROWS_WITH_AS((FeedForward<float, FloatCpu>(FloatCpu(1), {matrix(6, 4), matrix(6, 4), matrix(6, 4)})),
                         "the down weights are [6, 4], expected [4, 6]", Error);
}

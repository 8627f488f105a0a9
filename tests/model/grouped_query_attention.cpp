#include <mistral/model/grouped_query_attention.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <vector>

#include "device/cpu/architectures.hpp"
#include "goldens.hpp"

using namespace mistral;

namespace {

template <Scalar S>
AttentionWeights<S, FloatCpu> weights_of(const goldens::File& file, const std::string& name) {
    return {.query = file.matrix(name + "q_proj.weight").host<S>(),
            .key = file.matrix(name + "k_proj.weight").host<S>(),
            .value = file.matrix(name + "v_proj.weight").host<S>(),
            .output = file.matrix(name + "o_proj.weight").host<S>()};
}

}  // namespace

TEST_CASE_TEMPLATE("the layer agrees with transformers, in float64 and as it comes, in chunks too", S, double, float,
                   half, bfloat16) {
    using A = Activation<S>;
    const auto file = goldens::components();
    const FloatCpu device(2);
    goldens::for_each_component("attention", [&](const nlohmann::json& component, const std::string& name) {
        CAPTURE(name);
        const Shape shape = goldens::shape_of(component);
        const RotaryEmbedding<S, FloatCpu> rotary(device, shape.head_dim, component.at("theta"), RotaryPairing::halves);
        const GroupedQueryAttention<S, FloatCpu> layer(device, weights_of<S>(file, name), rotary, shape);
        const auto x = file.matrix(name + "x");
        const auto input = x.host<A>();
        for (const Index chunk : {Index{1}, Index{2}, x.rows}) {
            RollingKVCache<A, FloatCpu> cache(device, shape, {.context = x.rows + 1});
            FloatCpu::Workspace workspace;
            std::vector<A> out(x.values.size());
            for (Index t = 0; t < x.rows; t += chunk) {
                const Index n = std::min(chunk, x.rows - t);
                layer.forward(input.view.middle_rows(t, n), cache, {out.data() + t * x.cols, n, x.cols}, workspace);
            }
            goldens::check_component<A>(file, name, {out.data(), x.rows, x.cols});
        }
    });
}

TEST_CASE("a fixed shape computes what the same numbers at run time do") {
    constexpr Shape fixed{.window = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8};
    const auto file = goldens::components();
    const FloatCpu device(1);
    const RotaryEmbedding<float, FloatCpu> rotary(device, 8, 1e4, RotaryPairing::halves);
    const GroupedQueryAttention<float, FloatCpu, fixed> layer(device, weights_of<float>(file, "attention_0."), rotary);
    RollingKVCache<float, FloatCpu, fixed> cache(device);
    FloatCpu::Workspace workspace;
    const auto x = file.matrix("attention_0.x");
    const auto input = x.host<float>();
    std::vector<float> out(x.values.size());
    layer.forward(input.view, cache, {out.data(), x.rows, x.cols}, workspace);
    CHECK(goldens::relative_difference<float>({out.data(), x.rows, x.cols}, file.matrix("attention_0.out")) <
          goldens::component_tolerance<float>);
}

TEST_CASE("weights, rotary embedding and shape that contradict each other are refused by name") {
    const auto file = goldens::components();
    const FloatCpu device(1);
    const auto make = [&](const Shape& shape, Index rotary_dim) {
        return GroupedQueryAttention<float, FloatCpu>(device, weights_of<float>(file, "attention_0."),
                                                      {device, rotary_dim, 1e4, RotaryPairing::halves}, shape);
    };
    const Shape right{.window = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8};
    CHECK_NOTHROW(make(right, 8));
    CHECK_THROWS_WITH_AS(make({.window = 3, .query_heads = 8, .kv_heads = 2, .head_dim = 8}, 8),
                         "the query weights are [32, 24], expected [64, 24]", Error);
    CHECK_THROWS_WITH_AS(make({.window = 3, .query_heads = 4, .kv_heads = 4, .head_dim = 8}, 8),
                         "the key weights are [16, 24], expected [32, 24]", Error);
    CHECK_THROWS_WITH_AS(make(right, 16), "the rotary embedding's head_dim is 16, the attention's 8", Error);
    CHECK_THROWS_AS(make({.window = 3, .query_heads = 4, .kv_heads = 2}, 8), Error);
}

#include <mistral/model/mistral_block.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <vector>

#include "goldens.hpp"

using namespace mistral;

TEST_CASE_TEMPLATE("the block agrees with transformers in float64, in chunks too", S, double, float, half, bfloat16) {
    using A = Activation<S>;
    const auto file = goldens::components();
    const Cpu device(2);
    goldens::for_each_component("block", [&](const nlohmann::json& component, const std::string& name) {
        CAPTURE(name);
        const Shape shape{.window = goldens::window_of(component),
                          .query_heads = component.at("query_heads"),
                          .kv_heads = component.at("kv_heads"),
                          .head_dim = component.at("head_dim")};
        const auto map = [&](const char* key) { return file.matrix(name + key + ".weight").template host<S>(); };
        const auto norm = [&](const char* key) { return file.matrix(name + key + ".weight").template host<A>(); };
        const MistralBlock<S, Cpu> block(
            device,
            {.attention_norm = norm("input_layernorm"),
             .attention = {map("self_attn.q_proj"), map("self_attn.k_proj"), map("self_attn.v_proj"),
                           map("self_attn.o_proj")},
             .feed_forward_norm = norm("post_attention_layernorm"),
             .feed_forward = {map("mlp.gate_proj"), map("mlp.up_proj"), map("mlp.down_proj")}},
            {device, shape.head_dim, component.at("theta"), RotaryPairing::halves}, component.at("eps"), shape);
        const auto x = file.matrix(name + "x");
        for (const Index chunk : {Index{1}, Index{3}, x.rows}) {
            RollingKVCache<A, Cpu> cache(device, shape, {.context = x.rows});
            Cpu::Workspace workspace;
            std::vector<A> out(x.values.begin(), x.values.end());
            for (Index t = 0; t < x.rows; t += chunk)
                block.forward({out.data() + t * x.cols, std::min(chunk, x.rows - t), x.cols}, cache, workspace);
            CHECK(goldens::relative_difference<A>({out.data(), x.rows, x.cols}, file.matrix(name + "out")) <
                  goldens::component_tolerance<A>);
        }
    });
}

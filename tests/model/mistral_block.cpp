#include <mistral/model/mistral_block.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "device/cpu/architectures.hpp"
#include "goldens.hpp"

using namespace mistral;

namespace {

/// The block of a golden component. Its shape is given at run time, and in the type where `fixed` says so.
template <Scalar S, Shape fixed = Shape{}>
MistralBlock<S, FloatCpu, fixed> block_of(const goldens::File& file, const nlohmann::json& component,
                                          const FloatCpu& device) {
    const std::string name = component.at("name").get<std::string>() + ".";
    const auto map = [&](const char* key) { return file.matrix(name + key + ".weight").template host<S>(); };
    const auto norm = [&](const char* key) {
        return file.matrix(name + key + ".weight").template host<Activation<S>>();
    };
    const Shape shape = goldens::shape_of(component);
    return {device,
            {.attention_norm = norm("input_layernorm"),
             .attention = {map("self_attn.q_proj"), map("self_attn.k_proj"), map("self_attn.v_proj"),
                           map("self_attn.o_proj")},
             .feed_forward_norm = norm("post_attention_layernorm"),
             .feed_forward = {map("mlp.gate_proj"), map("mlp.up_proj"), map("mlp.down_proj")}},
            {device, shape.head_dim, component.at("theta"), RotaryPairing::halves},
            component.at("eps"),
            shape};
}

/// x [tokens, hidden_size] through the block, `chunk` tokens at a time.
template <class Block, class Cache>
std::vector<typename Block::A> run(const Block& block, Cache cache, const plain::Matrix& x, Index chunk) {
    FloatCpu::Workspace workspace;
    std::vector<typename Block::A> out(x.values.begin(), x.values.end());
    for (Index t = 0; t < x.rows; t += chunk)
        block.forward({out.data() + t * x.cols, std::min(chunk, x.rows - t), x.cols}, cache, workspace);
    return out;
}

/// Calls visit(file, name, block, x [tokens, hidden_size]) for every golden block, with weights of type S.
template <Scalar S, class Visit>
void for_each_block(const FloatCpu& device, Visit&& visit) {
    const auto file = goldens::components();
    goldens::for_each_component("block", [&](const nlohmann::json& component, const std::string& name) {
        CAPTURE(name);
        visit(file, name, block_of<S>(file, component, device), file.matrix(name + "x"));
    });
}

}  // namespace

TEST_CASE_TEMPLATE("the block agrees with transformers, in float64 and as it comes, in chunks too", S, double, float,
                   half, bfloat16) {
    using A = Activation<S>;
    const FloatCpu device(2);
    for_each_block<S>(device, [&](const auto& file, const std::string& name, const auto& block, const auto& x) {
        for (const Index chunk : {Index{1}, Index{3}, x.rows}) {
            const RollingKVCache<A, FloatCpu> cache(device, block.shape(), {.context = x.rows});
            const auto out = run(block, cache, x, chunk);
            goldens::check_component<A>(file, name, {out.data(), x.rows, x.cols});
        }
    });
}

TEST_CASE_TEMPLATE("tokens whose results nobody wants leave the same keys and values to those that follow", S, float,
                   half, bfloat16) {
    const FloatCpu device(2);
    for_each_block<S>(device, [&](const auto&, const std::string&, const auto& block, const auto& x) {
        using Cache = RollingKVCache<S, FloatCpu>;
        const auto expected = run(block, Cache(device, block.shape(), {.context = x.rows}), x, x.rows);
        for (Index others = 1; others < x.rows; ++others) {
            Cache cache(device, block.shape(), {.context = x.rows});
            FloatCpu::Workspace workspace;
            std::vector<float> out(x.values.begin(), x.values.end());
            block.append({out.data(), others, x.cols}, cache, workspace);
            CHECK(cache.next_position() == others);
            block.forward({out.data() + others * x.cols, x.rows - others, x.cols}, cache, workspace);
            CHECK(std::equal(out.begin() + others * x.cols, out.end(), expected.begin() + others * x.cols));
        }
    });
}

TEST_CASE("parts of different widths are refused by number") {
    const std::vector<float> numbers(64);
    const auto matrix = [&](Index rows, Index cols) {
        return HostMatrix<float>{{numbers.data(), rows, cols}, nullptr};
    };
    const auto make = [&](Index norm, Index other_norm, Index feed_forward) {
        return MistralBlock<float, FloatCpu>(
            FloatCpu(1),
            {.attention_norm = matrix(1, norm),
             .attention = {matrix(4, 6), matrix(4, 6), matrix(4, 6), matrix(6, 4)},
             .feed_forward_norm = matrix(1, other_norm),
             .feed_forward = {matrix(5, feed_forward), matrix(5, feed_forward), matrix(feed_forward, 5)}},
            {FloatCpu(1), 4, 1e4, RotaryPairing::halves}, 1e-5,
            {.window = 3, .query_heads = 1, .kv_heads = 1, .head_dim = 4});
    };
    CHECK(make(6, 6, 6).hidden_size() == 6);
    CHECK_THROWS_WITH_AS(make(6, 7, 6),
                         "the block's attention has rows of 6 elements, its norms of 6 and 7, its feed-forward layer "
                         "of 6, expected the same of all",
                         Error);
    CHECK_THROWS_AS(make(7, 6, 6), Error);
    CHECK_THROWS_AS(make(6, 6, 7), Error);
}

TEST_CASE("a fixed shape computes the same bits as the same numbers at run time, and refuses others") {
    constexpr Shape fixed{.window = 4, .query_heads = 4, .kv_heads = 2, .head_dim = 8};
    const auto file = goldens::components();
    const FloatCpu device(1);
    int found = 0;
    goldens::for_each_component("block", [&](const nlohmann::json& component, const std::string& name) {
        if (goldens::shape_of(component) == fixed) {
            const auto x = file.matrix(name + "x");
            const auto block = block_of<bfloat16, fixed>(file, component, device);
            CHECK(block.shape() == fixed);
            CHECK(run(block, RollingKVCache<bfloat16, FloatCpu, fixed>(device), x, 3) ==
                  run(block_of<bfloat16>(file, component, device), RollingKVCache<bfloat16, FloatCpu>(device, fixed), x,
                      3));
            ++found;
        } else {
            CHECK_THROWS_AS((block_of<bfloat16, fixed>(file, component, device)), Error);
        }
    });
    CHECK(found == 1);
}

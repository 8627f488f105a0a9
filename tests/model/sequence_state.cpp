#include <mistral/model/sequence_state.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <sstream>
#include <utility>
#include <vector>

#include "plain_mistral.hpp"

using namespace mistral;

namespace {

using Model = MistralModel<float>;
using State = Model::State<float>;

const Config config{.layers = 3,
                    .hidden_size = 16,
                    .intermediate_size = 20,
                    .query_heads = 4,
                    .kv_heads = 2,
                    .head_dim = 4,
                    .vocab_size = 30,
                    .max_positions = 64,
                    .rope_theta = 1e4,
                    .norm_eps = 1e-5,
                    .windows = {4, 7}};

std::vector<float> last_logits(const Model& model, State& state, std::span<const Token> tokens) {
    std::vector<float> logits(static_cast<std::size_t>(config.vocab_size));
    model.forward<float>(tokens, state, {logits.data(), 1, config.vocab_size});
    return logits;
}

}  // namespace

TEST_CASE("a copied, a saved and a rewound state go on as the original does, to the bit") {
    const Model model = plain::Mistral(config, 1).model<float>(Cpu(1));
    plain::Random random(2);
    const auto tokens = random.tokens(40, config.vocab_size);
    const std::span<const Token> all(tokens);
    for (const std::size_t before : {0u, 1u, 3u, 4u, 11u, 29u}) {
        CAPTURE(before);
        State state(model.device(), config, {.rewind = 10});
        if (before > 0) last_logits(model, state, all.first(before));
        State copy = state;
        std::stringstream file;
        state.save(file);
        const auto expected = last_logits(model, state, all.subspan(before, 9));

        CHECK(last_logits(model, copy, all.subspan(before, 9)) == expected);
        CHECK(copy.position() == state.position());

        State restored(model.device(), config, {.rewind = 10});
        last_logits(model, restored, all.first(17));
        restored.restore(file);
        CHECK(restored.position() == static_cast<Index>(before));
        CHECK(last_logits(model, restored, all.subspan(before, 9)) == expected);

        state.rewind_to(static_cast<Index>(before));
        CHECK(last_logits(model, state, all.subspan(before, 9)) == expected);
    }
}

TEST_CASE("a state's identity is that of its caches' memory: copies have their own, moves take it along") {
    State state(Cpu(1), config);
    const auto identity = state.identity();
    REQUIRE(identity != nullptr);
    std::stringstream file;
    state.save(file);
    state.restore(file);
    state.clear();
    state.advance(5);
    state.rewind_to(4);
    CHECK(state.identity() == identity);

    State copy = state;
    CHECK(copy.identity() != nullptr);
    CHECK(copy.identity() != identity);
    State moved = std::move(state);
    CHECK(moved.identity() == identity);
    copy = moved;
    CHECK(copy.identity() != nullptr);
    CHECK(copy.identity() != identity);
    const auto replaced = copy.identity();
    copy = std::move(moved);
    CHECK(copy.identity() == identity);
    CHECK(copy.identity() != replaced);
}

TEST_CASE("a rewind beyond what is kept is refused and changes nothing") {
    const Model model = plain::Mistral(config, 1).model<float>(Cpu(1));
    plain::Random random(2);
    State state(model.device(), config, {.rewind = 2});
    last_logits(model, state, random.tokens(20, config.vocab_size));
    CHECK(state.can_rewind_to(17));
    CHECK_FALSE(state.can_rewind_to(16));
    CHECK_THROWS_AS(state.rewind_to(16), Error);
    CHECK(state.position() == 20);
    state.clear();
    CHECK(state.position() == 0);
}

TEST_CASE("a saved state that was cut anywhere, or is another model's, is refused and leaves the state empty") {
    const Model model = plain::Mistral(config, 1).model<float>(Cpu(1));
    plain::Random random(2);
    State state(model.device(), config);
    last_logits(model, state, random.tokens(20, config.vocab_size));
    std::stringstream out;
    state.save(out);
    const std::string file = out.str();
    int accepted = 0;
    for (std::size_t size = 0; size < file.size(); size += 5) {
        std::istringstream cut(file.substr(0, size));
        try {
            state.restore(cut);
            ++accepted;
        } catch (const Error&) {
            CHECK(state.position() == 0);
        }
    }
    CHECK(accepted == 0);
    Config other = config;
    other.windows = {5};
    State different(model.device(), other);
    std::istringstream in(file);
    CHECK_THROWS_WITH_AS(different.restore(in),
                         "a saved cache has 4 slots, 2 heads of 4 elements of 4 bytes, expected 5, 2, 4, 4", Error);
}

TEST_CASE("lying extents in a saved state are refused") {
    const Model model = plain::Mistral(config, 1).model<float>(Cpu(1));
    State state(model.device(), config);
    for (const auto& [first, end] : std::vector<std::pair<Index, Index>>{
             {-1, 2}, {5, 4}, {0, 5}, {0, std::numeric_limits<Index>::max()}, {std::numeric_limits<Index>::min(), 0}}) {
        std::string file;
        for (const Index number : {first, end, Index{4}, Index{2}, Index{4}, Index{4}})
            file.append(reinterpret_cast<const char*>(&number), sizeof(number));
        file.append(100'000, '\0');
        std::istringstream in(file);
        CHECK_THROWS_AS(state.restore(in), Error);
        CHECK(state.position() == 0);
    }
}

TEST_CASE("a config without layers or windows is refused") {
    for (const Index layers : {0, -1}) {
        Config empty = config;
        empty.layers = layers;
        CHECK_THROWS_WITH_AS(State(Cpu(1), empty), doctest::Contains("layers, expected one or more"), Error);
    }
    Config windowless = config;
    windowless.windows.clear();
    CHECK_THROWS_WITH_AS(State(Cpu(1), windowless), "the config has no windows, expected one or more", Error);
}

TEST_CASE("bytes add up over layers with windows of their own, and stop growing") {
    const Model model = plain::Mistral(config, 1).model<float>(Cpu(1));
    State state(model.device(), config);
    const Index per_token = 2 * 2 * 4 * 4;  // keys and values, heads, head_dim, bytes
    CHECK(state.bytes() == per_token * (4 + 7 + 4));
    plain::Random random(2);
    last_logits(model, state, random.tokens(200, config.vocab_size));
    CHECK(state.bytes() == per_token * (4 + 7 + 4));
}

#include <mistral/generate/text_generation.hpp>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <mistral/checkpoint/load.hpp>

#include "tiny_model.hpp"

#include "device/cpu/architectures.hpp"

using namespace mistral;

namespace {

using Model = MistralModel<bfloat16>;

const Model& shakespeare() {
    static const Model model = Model::load(MISTRAL_MODELS "/shakespeare", Cpu(2));
    return model;
}

const Tokenizer& tokenizer() {
    static const Tokenizer tokenizer = Tokenizer::load(MISTRAL_MODELS "/shakespeare");
    return tokenizer;
}

/// What transformers makes of the bundled model in float32.
const nlohmann::json& reference() {
    static const nlohmann::json json = [] {
        std::ifstream file(MISTRAL_TEST_DATA "/reference/shakespeare.json");
        REQUIRE(file.is_open());
        return nlohmann::json::parse(file);
    }();
    return json;
}

/// A model of random weights that speaks the bundled tokenizer, bytes of all kinds included.
MistralModel<float> babbling_model() {
    auto config = tiny::config({6});
    config.vocab_size = tokenizer().vocab_size();
    return tiny::model<float>(config, Cpu(1));
}

/// Makes nearly everything that is said a byte, most of them of longer characters.
void favour_bytes(std::span<float> logits) {
    for (std::size_t token = 0; token < logits.size(); ++token)
        if (tokenizer().name(static_cast<Token>(token)).starts_with("<0x")) logits[token] += 10;
}

}  // namespace

TEST_CASE("the bundled model writes what transformers writes with it, for any chunks and threads") {
    const auto expected = reference().at("greedy_tokens").get<std::vector<Token>>();
    const auto logprobs = reference().at("greedy_log_probs_f32").get<std::vector<double>>();
    const auto prompt = tokenizer().encode("ROMEO:");
    REQUIRE(prompt == reference().at("prompt_tokens").get<std::vector<Token>>());
    struct Way {
        Index threads;
        Index chunk;
    };
    for (const Way& way : {Way{1, 512}, Way{2, 1}, Way{3, 2}}) {
        using FloatModel = MistralModel<bfloat16, FloatCpu>;
        const auto model = FloatModel::load(MISTRAL_MODELS "/shakespeare", FloatCpu(way.threads));
        Session<FloatModel, float> session(model, {.chunk = way.chunk});
        std::vector<Token> tokens;
        double difference = 0;
        session.generate(prompt, {.max_tokens = 64}, [&](Token token, const auto& generation) {
            difference = std::max(difference, std::abs(generation.logprob() - logprobs.at(tokens.size())));
            tokens.push_back(token);
        });
        CHECK(tokens == expected);
        CHECK(difference < 2e-5);  // both are float32, in other orders of summation: measured 1.8e-6
    }
    // With a cache in bfloat16 too: the smallest margin between two tokens is 0.03.
    Session session(shakespeare());
    const auto result = generate_text(session, tokenizer(), "ROMEO:", {.max_tokens = 64});
    CHECK(result.text == reference().at("greedy_text").get<std::string>());
    CHECK(result.reason == StopReason::max_tokens);
    CHECK(result.prompt_tokens == 3);
    CHECK(result.generated_tokens == 64);
}

TEST_CASE("the bundled model finds a text as likely as transformers does, far beyond its window") {
    std::ifstream file(MISTRAL_TEST_DATA "/reference/shakespeare_excerpt.txt");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto tokens = tokenizer().encode(text);
    REQUIRE(tokens == reference().at("tokens").get<std::vector<Token>>());
    const auto difference = [&](auto&& session) {
        const auto scores = session.score(tokens);
        CHECK(scores.logprobs.size() == reference().at("predicted").get<std::size_t>());
        return std::abs(scores.mean_nll() - reference().at("scores").at("f64").at("mean_nll").get<double>());
    };
    using FloatModel = MistralModel<bfloat16, FloatCpu>;
    const auto model = FloatModel::load(MISTRAL_MODELS "/shakespeare");
    CHECK(difference(Session<FloatModel, float>(model)) < 1e-5);
    // Activations rounded to 8 bits, where the processor does so: 5e-5 measured, errors of either sign over 1587
    // tokens.
    CHECK(difference(Session(shakespeare())) < 1e-3);
}

TEST_CASE("a stop string ends the text before it, and what was generated stays in the session") {
    Session session(shakespeare());
    const std::string whole = reference().at("greedy_text");
    std::string streamed;
    const auto result =
        generate_text(session, tokenizer(), "ROMEO:", {.max_tokens = 64, .stop_strings = {"HENRY", "what, then"}},
                      [&](std::string_view piece) { streamed += piece; });
    CHECK(result.text == whole.substr(0, whole.find("HENRY")));
    CHECK(result.reason == StopReason::stop_string);
    CHECK(streamed == result.text);
    CHECK(session.position() == result.prompt_tokens + result.generated_tokens);
    const auto held = session.recent(result.generated_tokens);
    CHECK(tokenizer().decode(held) == whole.substr(0, whole.find("HENRY") + 5));
}

TEST_CASE("text that only starts like a stop string comes out in the end") {
    Session session(shakespeare());
    const std::string whole = reference().at("greedy_text");
    const auto result = generate_text(
        session, tokenizer(), "ROMEO:", {.max_tokens = 64, .stop_strings = {whole.substr(whole.size() - 6) + "!"}});
    CHECK(result.text == whole);
    CHECK(result.reason == StopReason::max_tokens);
}

TEST_CASE("pieces of text are whole characters and make up the text, whatever bytes a model says") {
    Session session(babbling_model());
    for (const std::uint64_t seed : {1u, 2u, 3u, 4u, 5u}) {
        session.reset();
        std::string streamed;
        int broken = 0;
        const auto result = generate_text(session, tokenizer(), "a",
                                          {.max_tokens = 300,
                                           .temperature = 5,
                                           .seed = seed,
                                           .ignore_eos = true,
                                           .stop_strings = {"\u00e9\u00e9\u00e9"},
                                           .logit_hook = favour_bytes},
                                          [&](std::string_view piece) {
                                              broken += piece.empty() || !Utf8::is_well_formed(piece);
                                              streamed += piece;
                                          });
        CHECK(broken == 0);
        CHECK(streamed == result.text);
        CHECK(result.reason == StopReason::max_tokens);
        // The same tokens, decoded after the prompt at once.
        auto tokens = tokenizer().encode("a");
        const std::size_t prompt = tokenizer().decode(tokens).size();
        const auto generated = session.recent(300);
        tokens.insert(tokens.end(), generated.begin(), generated.end());
        CHECK(result.text == tokenizer().decode(tokens).substr(prompt));
        CHECK(result.text.find("\xEF\xBF\xBD") != std::string::npos);
    }
}

TEST_CASE("a callback that returns false cancels, and gets nothing more") {
    Session session(shakespeare());
    int calls = 0;
    const auto result = generate_text(session, tokenizer(), "ROMEO:", {.max_tokens = 64},
                                      [&](std::string_view) { return ++calls < 5; });
    CHECK(calls == 5);
    CHECK(result.reason == StopReason::cancelled);
    CHECK(result.generated_tokens < 64);
    CHECK(session.position() == 3 + result.generated_tokens);
}

TEST_CASE("a stop token ends the text and is not counted") {
    Session session(shakespeare());
    const Token stop = reference().at("greedy_tokens").at(12);
    const auto result = generate_text(session, tokenizer(), "ROMEO:", {.max_tokens = 64, .stop_tokens = {stop}});
    CHECK(result.reason == StopReason::stop_token);
    CHECK(session.position() == result.prompt_tokens + result.generated_tokens + 1);
    CHECK(session.recent(1)[0] == stop);
    const std::string whole = reference().at("greedy_text");
    CHECK(whole.starts_with(result.text));
}

TEST_CASE("a second text continues the first, with one beginning of the sequence") {
    Session session(shakespeare());
    const auto first = generate_text(session, tokenizer(), "ROMEO:", {.max_tokens = 20});
    const auto second = generate_text(session, tokenizer(), "", {.max_tokens = 44});
    CHECK(second.prompt_tokens == 0);
    CHECK(first.text + second.text == reference().at("greedy_text").get<std::string>());
    const auto third = generate_text(session, tokenizer(), " JULIET:", {.max_tokens = 1});
    CHECK(third.prompt_tokens == static_cast<Index>(tokenizer().encode(" JULIET:", {.bos = false}).size()));
}

TEST_CASE("the blank before a word stays where a text goes on, and goes where an answer starts") {
    const auto tokens = tokenizer().encode("the king");
    const auto king = tokenizer().find("\u2581king");
    REQUIRE(king);
    const GenerateOptions say_king{.max_tokens = 1, .logit_hook = [&](std::span<float> logits) {
                                       logits[static_cast<std::size_t>(*king)] = 1000;
                                   }};
    Session session(babbling_model());
    CHECK(generate_text(session, tokenizer(), "the", say_king).text == " king");
    CHECK(generate_text(session, tokenizer(), "", say_king).text == " king");
    session.reset();
    CHECK(generate_text(session, tokenizer(), std::span<const Token>(tokens), say_king).text == "king");
    CHECK(generate_text(session, tokenizer(), tokens, say_king).text == "king");
}

TEST_CASE("impossible stop strings and options are refused before anything is computed") {
    Session session(babbling_model());
    CHECK(message_of([&] { generate_text(session, tokenizer(), "a", {.stop_strings = {""}}); }) ==
          "stop_strings[0] is empty, expected some text");
    CHECK(message_of([&] { generate_text(session, tokenizer(), "a", {.top_p = 2}); }) == "top_p is 2, expected 0 to 1");
    CHECK(session.position() == 0);
}

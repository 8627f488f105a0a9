#include <mistral/generate/sampler.hpp>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "tiny_model.hpp"

using namespace mistral;

namespace {

using Logits = std::vector<float>;

nlohmann::json cases(const char* name, const char* key) {
    std::ifstream file(std::string(MISTRAL_TEST_DATA "/generate/") + name);
    REQUIRE(file.is_open());
    return nlohmann::json::parse(file).at(key);
}

nlohmann::json cases(const char* step) {
    return cases("sampling_cases.json", step);
}

/// What is left of the probabilities `p` after the options' steps, the largest first.
std::vector<double> left_of(const nlohmann::json& p, const GenerateOptions& options,
                            const std::vector<Token>& recent = {}) {
    Logits logits;
    for (const double probability : p) logits.push_back(static_cast<float>(std::log(probability)));
    std::vector<double> left;
    for (const auto& kept : Sampler(options).distribution(logits, recent)) left.push_back(kept.probability);
    std::sort(left.rbegin(), left.rend());
    return left;
}

void check_close(std::vector<double> found, const nlohmann::json& expected) {
    found.resize(expected.size(), 0.0);  // a step may leave tokens out or give them nothing
    for (std::size_t i = 0; i < found.size(); ++i)
        CHECK(found[i] == doctest::Approx(expected[i].get<double>()).epsilon(2e-5));
}

Logits random_logits(Random& random, std::size_t count) {
    Logits logits;
    for (std::size_t i = 0; i < count; ++i) logits.push_back(static_cast<float>(8 * random.uniform() - 4));
    return logits;
}

/// The steps as their definitions say, by sorting everything.
std::vector<TokenProbability> plain_distribution(const Logits& logits, const GenerateOptions& options) {
    std::vector<TokenProbability> all;
    for (std::size_t i = 0; i < logits.size(); ++i)
        all.push_back({static_cast<Token>(i),
                       std::exp(static_cast<double>(logits[i]) / static_cast<double>(options.temperature))});
    std::stable_sort(all.begin(), all.end(), [](auto a, auto b) { return a.probability > b.probability; });
    const auto normalise = [&] {
        double sum = 0;
        for (const auto& token : all) sum += token.probability;
        for (auto& token : all) token.probability /= sum;
    };
    if (options.top_k > 0) all.resize(std::min(all.size(), static_cast<std::size_t>(options.top_k)));
    normalise();
    std::vector<TokenProbability> kept;
    double before = 0;
    for (const auto& token : all) {
        if (options.top_p < 1 && before > static_cast<double>(options.top_p)) break;
        kept.push_back(token);
        before += token.probability;
    }
    all = kept;
    while (all.back().probability < static_cast<double>(options.min_p) * all.front().probability) all.pop_back();
    normalise();
    return all;
}

}  // namespace

TEST_CASE("temperature, top-k, top-p, min-p and repetition penalty leave what llama.cpp's tests expect") {
    for (const auto& test : cases("temperature"))
        check_close(left_of(test.at("p"), {.temperature = test.at("t")}), test.at("out"));
    for (const auto& test : cases("top_k"))
        check_close(left_of(test.at("p"), {.temperature = 1, .top_k = test.at("k")}), test.at("out"));
    for (const auto& test : cases("min_p"))
        check_close(left_of(test.at("p"), {.temperature = 1, .min_p = test.at("min_p")}), test.at("out"));
    for (const auto& test : cases("repetition_penalty"))
        check_close(left_of(test.at("p"), {.temperature = 1, .repetition_penalty = test.at("repeat")}, test.at("last")),
                    test.at("out"));
    for (const auto& test : cases("top_p")) {
        // A sum of probabilities that equals p is where llama.cpp's rule is another one, and rounding decides besides.
        const auto p = test.at("top_p").get<float>();
        const float just_below = p == 0.7f ? 0.6999f : p;
        check_close(left_of(test.at("p"), {.temperature = 1, .top_p = just_below}), test.at("out"));
    }
}

TEST_CASE("all steps together leave what those of transformers leave, in the same order") {
    int different = 0;
    for (const auto& test : cases("transformers_cases.json", "cases")) {
        Sampler sampler({.temperature = test.at("temperature"),
                         .top_k = test.at("top_k"),
                         .top_p = test.at("top_p"),
                         .min_p = test.at("min_p"),
                         .repetition_penalty = test.at("repetition_penalty")});
        std::vector<double> probabilities(test.at("logits").size());
        for (const auto& kept :
             sampler.distribution(test.at("logits").get<Logits>(), test.at("recent").get<std::vector<Token>>()))
            probabilities[static_cast<std::size_t>(kept.token)] = kept.probability;
        for (std::size_t i = 0; i < probabilities.size(); ++i)
            different += std::abs(probabilities[i] - test.at("probabilities").at(i).get<double>()) > 1e-6;
    }
    CHECK(different == 0);
}

TEST_CASE("top-p keeps a token while the mass before it is at most p") {
    const Logits four(4, 1.0f);  // a quarter each, and sums of quarters are exact
    const auto kept = [&](float p) { return Sampler({.temperature = 1, .top_p = p}).distribution(four).size(); };
    CHECK(kept(0) == 1);
    CHECK(kept(0.24f) == 1);
    CHECK(kept(0.25f) == 2);
    CHECK(kept(0.49f) == 2);
    CHECK(kept(0.5f) == 3);
    CHECK(kept(0.75f) == 4);
    CHECK(kept(1) == 4);
}

TEST_CASE("any combination of steps leaves what their definitions say") {
    Random random(11);
    int compared = 0;
    for (int round = 0; round < 400; ++round) {
        const auto pick = [&](std::initializer_list<float> values) {
            return values.begin()[static_cast<std::size_t>(random.uniform() * static_cast<double>(values.size()))];
        };
        const Logits logits = random_logits(random, 1 + static_cast<std::size_t>(200 * random.uniform()));
        const GenerateOptions options{.temperature = pick({0.3f, 1, 2.5f}),
                                      .top_k = static_cast<Index>(pick({0, 0, 1, 5, 40, 1000})),
                                      .top_p = pick({0, 0.1f, 0.5f, 0.9f, 0.999f, 1, 1}),
                                      .min_p = pick({0, 0, 0.01f, 0.2f, 1})};
        auto found = Sampler(options).distribution(logits);
        std::stable_sort(found.begin(), found.end(), [](auto a, auto b) { return a.probability > b.probability; });
        const auto expected = plain_distribution(logits, options);
        REQUIRE(found.size() == expected.size());
        int different = 0;
        for (std::size_t i = 0; i < found.size(); ++i, ++compared)
            different +=
                found[i].token != expected[i].token || std::abs(found[i].probability - expected[i].probability) > 1e-12;
        CHECK(different == 0);
    }
    CHECK(compared > 1000);
}

TEST_CASE("of equal logits the lower token comes first in every step") {
    const Logits logits{1, 3, 3, 0, 3, 3};
    CHECK(Sampler().sample(logits) == 1);
    for (const GenerateOptions& options :
         {GenerateOptions{.temperature = 1, .top_k = 2}, GenerateOptions{.temperature = 1, .top_p = 0.25f},
          GenerateOptions{.temperature = 1, .top_k = 2, .top_p = 0.9f, .min_p = 1}}) {
        const auto kept = Sampler(options).distribution(logits);
        REQUIRE(kept.size() == 2);
        CHECK(kept[0].token == 1);
        CHECK(kept[1].token == 2);
    }
}

TEST_CASE("one seed gives one sequence of tokens, everywhere") {
    // Computed in Python from the definitions of the engine, of softmax and of top-k.
    const Logits logits{0.5f, -1, 2, 0, 1.5f, -3, 1, 0.25f};
    const std::vector<Token> all{4, 6, 2, 2, 0, 2, 7, 4, 2, 3, 4, 4, 7, 4, 0, 2, 2, 7, 4, 2,
                                 7, 2, 2, 6, 1, 2, 4, 4, 7, 0, 2, 4, 2, 0, 3, 6, 2, 2, 3, 2};
    const std::vector<Token> five{4, 6, 2, 2, 2, 2, 0, 4, 2, 4, 4, 4, 0, 6, 2, 2, 2, 0, 6, 2,
                                  7, 2, 2, 6, 2, 2, 4, 4, 7, 2, 2, 4, 2, 2, 4, 6, 2, 2, 4, 2};
    Sampler sampler({.temperature = 1, .seed = 2024});
    Sampler top_five({.temperature = 0.8f, .top_k = 5, .seed = 2024});
    for (std::size_t i = 0; i < all.size(); ++i) {
        CHECK(sampler.sample(logits) == all[i]);
        CHECK(top_five.sample(logits) == five[i]);
    }
}

TEST_CASE("tokens are drawn as often as their probabilities say") {
    Random random(8);
    const Logits logits = random_logits(random, 20);
    constexpr int draws = 200000;
    for (const GenerateOptions& options :
         {GenerateOptions{.temperature = 1, .seed = 5}, GenerateOptions{.temperature = 3, .top_p = 0.95f, .seed = 6},
          GenerateOptions{.temperature = 2, .top_k = 12, .seed = 7}}) {
        Sampler sampler(options);
        std::vector<int> counts(logits.size());
        for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(sampler.sample(logits))];
        double chi_square = 0;
        int in_distribution = 0;
        for (const auto& token : plain_distribution(logits, options)) {
            const double expected = draws * token.probability;
            const int count = counts[static_cast<std::size_t>(token.token)];
            chi_square += (count - expected) * (count - expected) / expected;
            in_distribution += count;
        }
        CHECK(in_distribution == draws);
        CHECK(chi_square < 50.8);  // at most 19 degrees of freedom: exceeded once in 10000 seeds
    }
}

TEST_CASE("the repetition penalty counts a token once, and moves logits of either sign down") {
    const Logits logits{2, -2, 4, 0};
    const auto logits_after = [&](const std::vector<Token>& recent) {
        Logits seen;
        Sampler sampler({.repetition_penalty = 2, .logit_hook = [&](std::span<float> adjusted) {
                             seen.assign(adjusted.begin(), adjusted.end());
                         }});
        static_cast<void>(sampler.sample(logits, recent));
        return seen;
    };
    CHECK(logits_after({}) == logits);
    CHECK(logits_after({0}) == Logits{1, -2, 4, 0});
    CHECK(logits_after({1, 1, 1}) == Logits{2, -4, 4, 0});
    CHECK(logits_after({0, 1, 2, 3, 2, 0}) == Logits{1, -4, 2, 0});
    CHECK(message_of([&] { logits_after({4}); }) == "recent token 4 is outside the vocabulary of 4");
}

TEST_CASE("the hook can forbid and favour tokens, and comes before temperature and cuts") {
    const Logits logits{1, 5, 3};
    CHECK(Sampler({.logit_hook = [](std::span<float> l) { l[1] = -tiny::infinity; }}).sample(logits) == 2);
    CHECK(Sampler({.logit_hook = [](std::span<float> l) { l[0] += 10; }}).sample(logits) == 0);
    const auto kept = Sampler({.temperature = 1, .top_k = 1, .logit_hook = [](std::span<float> l) { l[0] = 9; }})
                          .distribution(logits);
    REQUIRE(kept.size() == 1);
    CHECK(kept[0].token == 0);
}

TEST_CASE("logits that are no numbers are refused, minus infinity forbids a token") {
    const auto error = [](const Logits& logits, const GenerateOptions& options = {.temperature = 1}) {
        return message_of([&] { static_cast<void>(Sampler(options).sample(logits)); });
    };
    for (const float temperature : {0.0f, 1.0f}) {
        CHECK(error({0, tiny::nan}, {.temperature = temperature}) ==
              "the model's logits: token 1 has nan, expected a number or -infinity");
        CHECK(error({tiny::infinity, 0}, {.temperature = temperature}) ==
              "the model's logits: token 0 has inf, expected a number or -infinity");
        CHECK(error({-tiny::infinity, -tiny::infinity}, {.temperature = temperature}) ==
              "the model's logits: all are -infinity, expected one that is not");
        CHECK(error({}, {.temperature = temperature}) != "");
    }
    CHECK(error({0, 1}, {.logit_hook = [](std::span<float> l) { l[0] = tiny::nan; }}) ==
          "the adjusted logits: token 0 has nan, expected a number or -infinity");
    CHECK(error({0, 1}, {.logit_hook = [](std::span<float> l) { std::fill(l.begin(), l.end(), -tiny::infinity); }}) ==
          "the adjusted logits: all are -infinity, expected one that is not");
    const std::vector<double> too_large{0, 1e300};
    CHECK_THROWS_AS(static_cast<void>(Sampler().sample(too_large)), Error);

    for (const GenerateOptions& options :
         {GenerateOptions{.temperature = 1}, GenerateOptions{.temperature = 1, .top_k = 3},
          GenerateOptions{.temperature = 1, .top_p = 0.99f}, GenerateOptions{.temperature = 1, .min_p = 0.01f}}) {
        Sampler sampler(options);
        std::vector<int> counts(5);
        for (int i = 0; i < 1000; ++i)
            ++counts[static_cast<std::size_t>(sampler.sample(Logits{-tiny::infinity, 0, -tiny::infinity, 0, 1}))];
        CHECK(counts[0] + counts[2] == 0);
        CHECK(std::min({counts[1], counts[3], counts[4]}) > 100);
    }
}

TEST_CASE("the smallest temperatures take the most likely token and the largest any") {
    const Logits logits{-3e38f, 1, 1.001f, 3e38f, 0};
    for (const float temperature : {1e-45f, 1e-30f, 1e-5f}) {
        Sampler sampler({.temperature = temperature});
        int others = 0;
        for (int i = 0; i < 100; ++i) others += sampler.sample(logits) != 3;
        CHECK(others == 0);
    }
    for (const auto& token : Sampler({.temperature = std::numeric_limits<float>::max()}).distribution(Logits{0, 9, -9}))
        CHECK(token.probability == doctest::Approx(1.0 / 3).epsilon(1e-12));
}

TEST_CASE("logits in double precision are sampled as the same in float") {
    Random random(21);
    const Logits logits = random_logits(random, 50);
    const std::vector<double> doubles(logits.begin(), logits.end());
    Sampler a({.temperature = 1, .top_p = 0.9f, .seed = 1});
    Sampler b({.temperature = 1, .top_p = 0.9f, .seed = 1});
    int different = 0;
    for (int i = 0; i < 200; ++i) different += a.sample(logits) != b.sample(doubles);
    CHECK(different == 0);
}

#include <mistral/generate/generation.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iterator>
#include <ranges>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <mistral/generate/session.hpp>

#include "tiny_model.hpp"

using namespace mistral;

using TinySession = Session<MistralModel<float>>;
static_assert(std::input_iterator<Generation<TinySession>::Iterator>);
static_assert(std::sentinel_for<std::default_sentinel_t, Generation<TinySession>::Iterator>);
static_assert(std::ranges::input_range<Generation<TinySession>>);
static_assert(std::same_as<std::ranges::range_value_t<Generation<TinySession>>, Token>);

namespace {

/// What a greedy generation is: the model alone, argmax, one token after the other.
template <class Model>
std::vector<Token> plain_greedy(const Model& model, std::vector<Token> sequence, Index count) {
    using C = DefaultCacheScalar<typename Model::WeightScalar>;
    typename Model::template State<C> state(model.device(), model.config());
    std::vector<typename Model::A> logits(static_cast<std::size_t>(model.config().vocab_size));
    std::vector<Token> generated;
    std::span<const Token> next(sequence);
    for (Index i = 0; i < count; ++i) {
        model.forward(next, state, {logits.data(), 1, model.config().vocab_size});
        generated.push_back(static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
        next = std::span(generated).last(1);
    }
    return generated;
}

/// A session and the tokens that it was given and gave hold the same: it goes on as a new one with these tokens.
void check_holds(TinySession& session, const std::vector<Token>& tokens) {
    CHECK(session.position() == static_cast<Index>(tokens.size()));
    CHECK(std::ranges::equal(session.recent(4096), tokens));
    TinySession other(session.model());
    other.append(tokens);
    CHECK(tiny::logits(session) == tiny::logits(other));
    session.append(tiny::tokens(5, 5));
    other.append(tiny::tokens(5, 5));
    CHECK(tiny::logits(session) == tiny::logits(other));
}

std::vector<Token> joined(std::vector<Token> a, const std::vector<Token>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

GenerateOptions greedy(Index count) {
    return {.max_tokens = count, .ignore_eos = true};
}

}  // namespace

TEST_CASE("a greedy generation is a loop of forward and argmax, for prompts within and beyond the window") {
    for (const std::vector<Index>& windows : {std::vector<Index>{1}, {6}, {4, no_window}, {no_window}}) {
        const auto model = tiny::model(windows);
        for (const Index length : {1, 5, 6, 7, 20}) {
            const auto prompt = tiny::tokens(length);
            const auto expected = plain_greedy(model, prompt, 25);
            for (const Index chunk : {1, 4, 512}) {
                Session session(model, {.chunk = chunk});
                CHECK(tiny::collect(session.generate(prompt, greedy(25))) == expected);
                check_holds(session, joined(prompt, expected));
            }
        }
    }
}

TEST_CASE("generations in double and with short scalars run too") {
    const auto prompt = tiny::tokens(9);
    const auto doubles = tiny::model<double>(tiny::config({6}), Cpu(1));
    Session session(doubles);
    CHECK(tiny::collect(session.generate(prompt, greedy(20))) == plain_greedy(doubles, prompt, 20));
    const auto bfloats = tiny::model<bfloat16>(tiny::config({6}), Cpu(1));
    Session short_session(bfloats);
    CHECK(tiny::collect(short_session.generate(prompt, greedy(20))) == plain_greedy(bfloats, prompt, 20));
}

TEST_CASE("a generation says why it ended, and how many tokens there were") {
    Session session(tiny::model());
    auto generation = session.generate(tiny::tokens(3), greedy(5));
    CHECK(generation.reason() == StopReason::none);
    CHECK(generation.generated() == 0);
    CHECK(session.position() == 0);  // nothing is computed before it is asked for
    CHECK(tiny::collect(generation).size() == 5);
    CHECK(generation.reason() == StopReason::max_tokens);
    CHECK(generation.generated() == 5);
    CHECK_FALSE(generation.next());
    CHECK(tiny::collect(generation).empty());
}

TEST_CASE("a loop that is left early leaves the tokens that it has seen") {
    const auto model = tiny::model();
    const auto prompt = tiny::tokens(4);
    for (const std::size_t most : {1u, 2u, 6u}) {
        TinySession session(model);
        std::vector<Token> seen;
        auto generation = session.generate(prompt, greedy(20));
        for (const Token token : generation) {
            seen.push_back(token);
            if (seen.size() == most) break;
        }
        CHECK(generation.reason() == StopReason::none);
        for (const Token token : generation) {  // goes on with the token that was seen last
            CHECK(token == seen.back());
            break;
        }
        check_holds(session, joined(prompt, seen));
    }
}

TEST_CASE("counting off tokens computes no more than those") {
    TinySession session(tiny::model());
    auto generation = session.generate(tiny::tokens(4), greedy(20));
    std::vector<Token> seen;
    for (std::counted_iterator i(generation.begin(), 3); i != std::default_sentinel; ++i) seen.push_back(*i);
    CHECK(seen.size() == 3);
    CHECK(session.position() == 7);
    auto i = generation.begin();
    CHECK(session.position() == 7);
    const Token fourth = *i;
    CHECK(session.position() == 8);
    CHECK(*i == fourth);
    CHECK(fourth == generation.token());
    i++;
    CHECK(session.position() == 8);
    const Token fifth = *i;
    CHECK(fifth == generation.token());
    CHECK(session.position() == 9);
    CHECK(tiny::logits(session) == [&] {
        Session other(session.model());
        other.append(session.recent(9));
        return tiny::logits(other);
    }());
}

TEST_CASE("no tokens asked for computes the prompt alone") {
    TinySession session(tiny::model());
    auto generation = session.generate(tiny::tokens(4), {.max_tokens = 0});
    CHECK(tiny::collect(generation).empty());
    CHECK(generation.reason() == StopReason::max_tokens);
    check_holds(session, tiny::tokens(4));
}

TEST_CASE("an empty prompt continues the session, and an empty session cannot be continued") {
    const auto model = tiny::model();
    const auto prompt = tiny::tokens(8);
    TinySession session(model);
    CHECK(message_of([&] { static_cast<void>(session.generate({})); }) ==
          "the prompt is empty and so is the session: there is nothing to continue");
    auto tokens = tiny::collect(session.generate(prompt, greedy(5)));
    tokens = joined(tokens, tiny::collect(session.generate({}, greedy(5))));
    CHECK(tokens == plain_greedy(model, prompt, 10));
}

TEST_CASE("a second turn follows all tokens of the first") {
    const auto model = tiny::model({5, no_window});
    TinySession session(model);
    const auto first = tiny::collect(session.generate(tiny::tokens(6), greedy(7)));
    const auto second = tiny::collect(session.generate(tiny::tokens(5, 2), greedy(9)));
    const auto prompt = joined(joined(tiny::tokens(6), first), tiny::tokens(5, 2));
    CHECK(second == plain_greedy(model, prompt, 9));
    check_holds(session, joined(prompt, second));
}

TEST_CASE("a stop token ends the generation: it is in the session but not in the range") {
    const auto model = tiny::model();
    const auto prompt = tiny::tokens(6);
    const auto tokens = plain_greedy(model, prompt, 20);
    const Token stop = tokens[7];
    const auto until = std::find(tokens.begin(), tokens.end(), stop);
    const std::vector<Token> expected(tokens.begin(), until);
    SUBCASE("given by the caller") {
        TinySession session(model);
        auto generation = session.generate(prompt, {.max_tokens = 20, .stop_tokens = {0, stop}, .ignore_eos = true});
        CHECK(tiny::collect(generation) == expected);
        CHECK(generation.reason() == StopReason::stop_token);
        CHECK(generation.generated() == static_cast<Index>(expected.size()));
        check_holds(session, joined(joined(prompt, expected), {stop}));
    }
    SUBCASE("one of the model's own, unless they are ignored") {
        auto config = tiny::config({6});
        config.eos_tokens = {1, stop};
        TinySession session(tiny::model<float>(config, Cpu(1)));
        auto generation = session.generate(prompt, {.max_tokens = 20});
        CHECK(tiny::collect(generation) == expected);
        CHECK(generation.reason() == StopReason::stop_token);
        check_holds(session, joined(joined(prompt, expected), {stop}));
        session.reset();
        CHECK(tiny::collect(session.generate(prompt, greedy(20))) == tokens);
    }
}

TEST_CASE("a full context ends the generation with all positions used") {
    const auto model = tiny::model({4, no_window});
    const auto prompt = tiny::tokens(5);
    TinySession session(model, {.context = 12});
    auto generation = session.generate(prompt, greedy(100));
    CHECK(tiny::collect(generation) == plain_greedy(model, prompt, 7));
    CHECK(generation.reason() == StopReason::context_full);
    CHECK(session.position() == 12);
    CHECK(tiny::logits(session).size() == 40);

    session.reset();
    auto too_long = session.generate(tiny::tokens(13), greedy(1));
    CHECK(message_of([&] { too_long.next(); }) == "the context is full: 0 positions are taken and 13 more were given");
    CHECK(session.position() == 0);
}

TEST_CASE("the same seed gives the same tokens, another one others") {
    const auto model = tiny::model();
    const auto run = [&](std::uint64_t seed, Index chunk) {
        Session session(model, {.chunk = chunk});
        return tiny::collect(session.generate(
            tiny::tokens(6), {.max_tokens = 30, .temperature = 1.2f, .top_k = 20, .seed = seed, .ignore_eos = true}));
    };
    CHECK(run(1, 512) == run(1, 2));
    CHECK(run(1, 512) != run(2, 512));
}

TEST_CASE("the repetition penalty looks back over prompt, output and earlier turns") {
    // With the largest penalty and a window over everything, nothing positive is said twice.
    Session session(tiny::model());
    session.append(tiny::tokens(5));
    std::vector<Token> all(session.recent(5).begin(), session.recent(5).end());
    for (int turn = 0; turn < 2; ++turn) {
        auto generation = session.generate(
            tiny::tokens(1, 3),
            {.max_tokens = 4, .repetition_penalty = 100, .repetition_window = 4096, .ignore_eos = true});
        all.push_back(tiny::tokens(1, 3)[0]);
        while (generation.next()) {
            const auto logits = session.logits_before_last();
            Token expected = 0;
            float largest = -tiny::infinity;
            for (Token token = 0; token < 40; ++token) {
                float logit = logits[static_cast<std::size_t>(token)];
                if (std::find(all.begin(), all.end(), token) != all.end())
                    logit = logit < 0 ? logit * 100 : logit / 100;
                if (logit > largest) {
                    largest = logit;
                    expected = token;
                }
            }
            CHECK(generation.token() == expected);
            all.push_back(expected);
        }
    }
}

TEST_CASE("log-probabilities are those of the raw logits, whatever the sampler made of them") {
    const auto model = tiny::model();
    Session session(model);
    auto generation = session.generate(
        tiny::tokens(6),
        {.max_tokens = 20, .temperature = 2, .top_k = 5, .seed = 4, .ignore_eos = true, .logprobs = 3});
    CHECK_THROWS_AS(static_cast<void>(generation.logprob()), Error);
    std::vector<Token> sequence = tiny::tokens(6);
    for (const Token token : generation) {
        Session other(model);
        other.append(sequence);
        const auto logits = tiny::logits(other);
        std::vector<TokenLogprob> expected;
        double sum = 0;
        for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
        for (Token t = 0; t < 40; ++t)
            expected.push_back({t, static_cast<double>(logits[static_cast<std::size_t>(t)]) - std::log(sum)});
        CHECK(generation.logprob() ==
              doctest::Approx(expected[static_cast<std::size_t>(token)].logprob).epsilon(1e-13));
        std::sort(expected.begin(), expected.end(), [](auto a, auto b) { return a.logprob > b.logprob; });
        const auto alternatives = generation.alternatives();
        REQUIRE(alternatives.size() == 3);
        for (std::size_t i = 0; i < 3; ++i) {
            CHECK(alternatives[i].token == expected[i].token);
            CHECK(alternatives[i].logprob == doctest::Approx(expected[i].logprob).epsilon(1e-13));
        }
        sequence.push_back(token);
    }
    static_cast<void>(session.logits());
    CHECK(message_of([&] { static_cast<void>(generation.logprob()); }) ==
          "the logits before the newest token are held no longer: the session has moved on");
}

TEST_CASE("a callback sees the same tokens and may end the generation") {
    const auto model = tiny::model();
    const auto prompt = tiny::tokens(6);
    const auto expected = plain_greedy(model, prompt, 10);
    TinySession session(model);
    std::vector<Token> seen;
    CHECK(session.generate(prompt, greedy(10), [&](Token token) { seen.push_back(token); }) == StopReason::max_tokens);
    CHECK(seen == expected);

    session.reset();
    seen.clear();
    CHECK(session.generate(prompt, greedy(10), [&](Token token) {
        seen.push_back(token);
        return seen.size() < 4;
    }) == StopReason::cancelled);
    CHECK(seen.size() == 4);
    check_holds(session, joined(prompt, seen));

    session.reset();
    double sum = 0;
    session.generate(prompt, greedy(10), [&](Token, const auto& generation) { sum += generation.logprob(); });
    session.reset();
    session.append(prompt);
    double scored = 0;
    for (const double logprob : session.score(expected).logprobs) scored += logprob;
    CHECK(sum == doctest::Approx(scored).epsilon(1e-12));
}

TEST_CASE("a stop that was requested before cancels without computing anything") {
    std::stop_source stop;
    stop.request_stop();
    TinySession session(tiny::model());
    auto options = greedy(10);
    options.stop = stop.get_token();
    auto generation = session.generate(tiny::tokens(6), options);
    CHECK(tiny::collect(generation).empty());
    CHECK(generation.reason() == StopReason::cancelled);
    CHECK(session.position() == 0);
}

TEST_CASE("a stop between two tokens leaves the tokens so far") {
    std::stop_source stop;
    TinySession session(tiny::model());
    auto options = greedy(10);
    options.stop = stop.get_token();
    std::vector<Token> seen;
    auto generation = session.generate(tiny::tokens(6), options);
    for (const Token token : generation) {
        seen.push_back(token);
        if (seen.size() == 3) stop.request_stop();
    }
    CHECK(seen.size() == 3);
    CHECK(generation.reason() == StopReason::cancelled);
    check_holds(session, joined(tiny::tokens(6), seen));
}

TEST_CASE("another thread can cancel a generation without end") {
    TinySession session(tiny::model());
    std::stop_source stop;
    std::atomic<bool> started = false;
    std::jthread canceller([&] {
        started.wait(false);
        stop.request_stop();
    });
    auto options = greedy(std::numeric_limits<Index>::max());
    options.stop = stop.get_token();
    auto generation = session.generate(tiny::tokens(6), options);
    for ([[maybe_unused]] const Token token : generation) {
        started = true;
        started.notify_one();
    }
    CHECK(generation.reason() == StopReason::cancelled);
    CHECK(session.position() == 6 + generation.generated());
}

TEST_CASE("stop strings are for text, tokens alone refuse them") {
    Session session(tiny::model());
    CHECK(message_of([&] { static_cast<void>(session.generate(tiny::tokens(1), {.stop_strings = {"a"}})); }) ==
          "stop_strings are given, but tokens have no text: use generate_text");
}

TEST_CASE("an error of the hook leaves the session where it was") {
    TinySession session(tiny::model());
    auto options = greedy(10);
    int calls = 0;
    options.logit_hook = [&](std::span<float> logits) {
        if (++calls == 3) logits[5] = tiny::nan;
    };
    std::vector<Token> seen;
    auto generation = session.generate(tiny::tokens(6), options);
    CHECK(message_of([&] {
              while (generation.next()) seen.push_back(generation.token());
          }) == "the adjusted logits: token 5 has nan, expected a number or -infinity");
    CHECK(seen.size() == 2);
    check_holds(session, joined(tiny::tokens(6), seen));
}

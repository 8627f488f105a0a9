#include <mistral/generate/session.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "message_of.hpp"
#include "tiny_model.hpp"

using namespace mistral;

namespace {

using TinySession = Session<MistralModel<float>>;
using TinyGeneration = Generation<TinySession>;

/// What one of several conversations asks for; all of them differ.
GenerateOptions options(std::size_t i) {
    return {.max_tokens = static_cast<Index>(5 + 7 * i),
            .temperature = i % 2 == 0 ? 0.0f : 0.8f,
            .seed = i,
            .ignore_eos = i != 1,
            .draft_tokens = i == 3 ? 2 : 0};
}
std::vector<Token> prompt(std::size_t i) {
    return tiny::tokens(static_cast<Index>(1 + 6 * i), i);
}
constexpr std::size_t count = 6;
constexpr SessionOptions session_options{.rewind = 4};

}  // namespace

TEST_CASE("generations that go on together give the tokens that each gives alone") {
    for (const std::vector<Index>& windows : {std::vector<Index>{4}, {6, no_window}, {no_window}})
        for (const Index threads : {1, 3}) {
            const auto model = tiny::model<float>(tiny::config(windows), Cpu(threads));
            std::vector<TinySession> sessions(count, TinySession(model, session_options));
            std::vector<TinyGeneration> generations;
            for (std::size_t i = 0; i < count; ++i) generations.push_back(sessions[i].generate(prompt(i), options(i)));
            std::vector<std::vector<Token>> found(count);
            while (next_together(generations))
                for (std::size_t i = 0; i < count; ++i)
                    if (generations[i].reason() == StopReason::none) found[i].push_back(generations[i].token());
            for (std::size_t i = 0; i < count; ++i) {
                CAPTURE(i);
                TinySession alone(model, session_options);
                auto generation = alone.generate(prompt(i), options(i));
                CHECK(found[i] == tiny::collect(generation));
                CHECK(generations[i].reason() == generation.reason());
                CHECK(sessions[i].position() == alone.position());
                CHECK(tiny::logits(sessions[i]) == tiny::logits(alone));
            }
        }
}

TEST_CASE("what pushes, rewinds and nothing left to compute is computed in one pass") {
    const auto model = tiny::model({6, no_window});
    std::vector<TinySession> sessions(4, TinySession(model, session_options));
    std::vector<TinySession> alone = sessions;
    for (auto* all : {&sessions, &alone}) {
        (*all)[0].push(5);
        (*all)[1].append(tiny::tokens(9));
        (*all)[1].push(7);
        (*all)[2].append(tiny::tokens(8));
        (*all)[2].rewind_to(5);
        (*all)[3].append(tiny::tokens(3));  // has its logits
    }
    const std::vector<TinySession*> pointers{&sessions[0], &sessions[1], &sessions[2], &sessions[3]};
    TinySession::compute_logits(pointers);
    for (std::size_t i = 0; i < sessions.size(); ++i) {
        CAPTURE(i);
        CHECK(sessions[i].has_logits());
        CHECK(sessions[i].position() == alone[i].position());
        CHECK(tiny::logits(sessions[i]) == tiny::logits(alone[i]));
    }
    TinySession::compute_logits(pointers);  // nothing is left
    TinySession::compute_logits({});
}

TEST_CASE("sessions that cannot be computed in one pass are refused, and stay as they were") {
    const auto model = tiny::model();
    TinySession first(model), second(model), empty(model), other(tiny::model());
    for (TinySession* session : {&first, &second, &other}) session->append(tiny::tokens(4));
    first.push(3);
    const auto message = [](const std::vector<TinySession*>& sessions) {
        return message_of([&] { TinySession::compute_logits(sessions); });
    };
    CHECK(message({&first, &empty}) == "the session is empty: there are no logits before the first token");
    CHECK(message({&first, &second, &first}) == "a session was given twice to be computed in one pass");
    CHECK(message({&first, &other}) == "sessions over different models were to be computed in one pass");
    CHECK_FALSE(first.has_logits());
    CHECK(first.position() == 5);
    std::vector<TinyGeneration> twice;
    twice.push_back(first.generate({}, {.max_tokens = 3}));
    twice.push_back(first.generate({}, {.max_tokens = 3}));
    CHECK(message_of([&] { next_together(twice); }) == "a session was given twice to be computed in one pass");
}

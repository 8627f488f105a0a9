#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <new>
#include <span>
#include <sstream>
#include <vector>

#include <mistral/generate/session.hpp>

#include "tiny_model.hpp"
#include "watched_allocations.hpp"

using namespace mistral;
using watched::allocations;
using watched::counts;
using watched::failing_allocation;

TEST_CASE("the counter of allocations counts") {
    const long before = allocations;
    const std::vector<int> some(100);
    CHECK(allocations == before + (counts ? 1 : 0));
}

TEST_CASE("a decode step after the first allocates nothing, however the token is chosen") {
    const std::vector<GenerateOptions> ways{
        {},
        {.temperature = 1},
        {.temperature = 1, .top_k = 5},
        {.temperature = 1, .top_p = 0.9f, .min_p = 0.01f},
        {.temperature = 1, .top_k = 20, .top_p = 0.9f, .repetition_penalty = 1.3f, .repetition_window = 100},
        {.temperature = 1, .logprobs = 5, .logit_hook = [](std::span<float> logits) { logits[7] = 0; }},
        {.draft_tokens = 16, .logprobs = 5},
        {.temperature = 1, .top_k = 2, .draft_tokens = 7}};
    for (const std::vector<Index>& windows : {std::vector<Index>{6}, {4, no_window}})
        for (GenerateOptions options : ways) {
            options.max_tokens = 55;
            options.ignore_eos = true;
            options.stop_tokens = {39};
            options.logit_hook = [hook = options.logit_hook](std::span<float> logits) {
                if (hook) hook(logits);
                logits[39] = -tiny::infinity;
            };
            Session session(tiny::model<bfloat16>(tiny::config(windows), Cpu(2)), {.rewind = options.draft_tokens});
            auto generation = session.generate(tiny::tokens(8), options);
            REQUIRE(generation.next());  // the prompt
            REQUIRE(generation.next());  // the first decode step
            CHECK((generation.drafted() > 0) == (options.draft_tokens > 0));
            double sum = generation.logprob() + static_cast<double>(generation.alternatives().size());
            const long before = allocations;
            while (generation.next())
                sum += generation.logprob() + static_cast<double>(generation.alternatives().size());
            CHECK(allocations == before);
            CHECK(generation.generated() == 55);
            CHECK(sum != 0);
        }
}

TEST_CASE("200 000 decode steps allocate nothing after the first, and scratch memory stays as it is") {
    constexpr Index steps = counts ? 200'000 : 1'000;
    auto config = tiny::config({5});
    config.layers = 1;
    const auto model = tiny::model<float>(config, Cpu(1));
    Session session(model);
    auto generation = session.generate(tiny::tokens(8), {.max_tokens = steps + 2, .ignore_eos = true});
    REQUIRE(generation.next());  // the prompt
    REQUIRE(generation.next());  // the first decode step
    long before = allocations;
    while (generation.next()) continue;
    CHECK(generation.generated() == steps + 2);
    CHECK(allocations == before);

    // The session's scratch memory is the model's state's.
    MistralModel<float>::State<float> state(model.device(), config);
    std::vector<float> logits(static_cast<std::size_t>(config.vocab_size));
    const auto step = [&](Token token) {
        model.forward<float>({&token, 1}, state, {logits.data(), 1, config.vocab_size});
    };
    step(3);
    before = allocations;
    const Index bytes = state.workspace().bytes();
    for (Index i = 0; i < steps; ++i) step(static_cast<Token>(i % config.vocab_size));
    CHECK(state.workspace().bytes() == bytes);
    CHECK(allocations == before);
    CHECK(bytes > 0);
}

namespace {

/// A model that takes scratch memory after the first cache has been written.
MistralModel<float> late_scratch_model() {
    auto config = tiny::config({5, no_window});
    config.intermediate_size = 1000;
    return tiny::model<float>(config, Cpu(1));
}

std::vector<float> logits_after(const MistralModel<float>& model, std::span<const Token> tokens) {
    Session session(model);
    session.append(tokens);
    return tiny::logits(session);
}

/// Whether body() throws std::bad_alloc where the n-th allocation from now on fails.
template <class Body>
bool runs_out_of_memory(long n, Body&& body) {
    bool failed = false;
    failing_allocation = allocations + n;
    try {
        body();
    } catch (const std::bad_alloc&) {
        failed = true;
    }
    failing_allocation = std::numeric_limits<long>::max();
    return failed;
}

}  // namespace

TEST_CASE("a draft leaves no trace whichever allocation fails") {
    const auto model = late_scratch_model();
    const auto tokens = tiny::tokens(20);
    const auto expected = logits_after(model, tokens);
    int failures = 0;
    for (long failing = 1;; ++failing) {
        Session session(model, {.rewind = 6});
        session.append(std::span(tokens).first(19));
        session.push(tokens[19]);
        session = Session(session);  // without scratch memory
        const bool failed =
            runs_out_of_memory(failing, [&] { static_cast<void>(session.logits(std::span(tokens).first(6))); });
        CHECK(session.position() == 20);
        CHECK(tiny::logits(session) == expected);
        if (!failed) break;
        ++failures;
    }
    CHECK((failures >= 3 || !counts));
}

TEST_CASE("a session stays usable whichever allocation fails") {
    const auto model = late_scratch_model();
    const auto tokens = tiny::tokens(22);
    const std::span<const Token> all(tokens);
    const auto expected = logits_after(model, tokens);

    int failures = 0;
    int emptied = 0;
    for (long failing = 1;; ++failing) {
        Session session(model, {.rewind = 3, .chunk = 4});
        session.append(all.first(12));
        session = Session(session);  // without scratch memory
        session.push(all[12]);
        const bool failed = runs_out_of_memory(failing, [&] { session.append(all.subspan(13)); });
        if (!failed) break;

        ++failures;
        emptied += session.position() == 0;
        CHECK((session.position() == 13 || session.position() == 0));
        std::stringstream saved;
        session.save(saved);
        session.restore(saved);
        const auto held = static_cast<std::size_t>(session.position());
        CHECK(std::ranges::equal(session.recent(100), all.first(held)));
        session.append(all.subspan(held));
        CHECK(tiny::logits(session) == expected);
    }
    CHECK((failures >= 2 || !counts));
    CHECK((emptied < failures || !counts));
}

TEST_CASE("sessions that are computed together stay usable whichever allocation fails") {
    const auto model = late_scratch_model();
    const auto tokens = tiny::tokens(13);
    const auto expected = logits_after(model, tokens);

    int failures = 0;
    for (long failing = 1;; ++failing) {
        Session first(model, {.rewind = 1});
        first.append(std::span(tokens).first(12));
        first = Session(first);  // without scratch memory
        first.push(tokens[12]);
        Session second = first;
        const std::vector<Session<MistralModel<float>>*> sessions{&first, &second};
        const bool failed =
            runs_out_of_memory(failing, [&] { Session<MistralModel<float>>::compute_logits(sessions); });
        for (auto* session : sessions) {
            CHECK(session->position() == 13);
            CHECK(session->has_logits() == !failed);
            CHECK(tiny::logits(*session) == expected);
        }
        if (!failed) break;
        ++failures;
    }
    CHECK((failures >= 3 || !counts));
}

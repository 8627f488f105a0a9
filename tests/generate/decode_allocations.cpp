#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <new>
#include <span>
#include <sstream>
#include <vector>

#include <mistral/generate/session.hpp>

#include "tiny_model.hpp"

namespace {

// Allocations of all threads since the start, nothrow ones aside, and which of them fails.
std::atomic<long> allocations = 0;
std::atomic<long> failing_allocation = std::numeric_limits<long>::max();

}  // namespace

// Clang's ThreadSanitizer has an operator new that cannot be replaced; nothing is counted then.
#if defined(__clang__) && defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MISTRAL_TEST_KEEPS_OPERATOR_NEW
#endif
#endif

#ifdef MISTRAL_TEST_KEEPS_OPERATOR_NEW
constexpr bool counts = false;
#else
constexpr bool counts = true;

static void* allocate(std::size_t size, std::size_t alignment) {
    if (++allocations == failing_allocation) throw std::bad_alloc();
    const std::size_t rounded = (size + alignment - 1) / alignment * alignment;
    void* memory = std::aligned_alloc(alignment, rounded > 0 ? rounded : alignment);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

// Called through a pointer, as GCC takes free() in an inlined operator delete for a mistake.
static void (*volatile const release)(void*) = std::free;

void* operator new(std::size_t size) {
    return allocate(size, alignof(std::max_align_t));
}
void* operator new[](std::size_t size) {
    return allocate(size, alignof(std::max_align_t));
}
void* operator new(std::size_t size, std::align_val_t alignment) {
    return allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
    return allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return std::malloc(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
    return std::malloc(size);
}
void operator delete(void* memory) noexcept {
    release(memory);
}
void operator delete[](void* memory) noexcept {
    release(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    release(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
    release(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    release(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
    release(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    release(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
    release(memory);
}
#endif

using namespace mistral;

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

TEST_CASE("a draft leaves no trace whichever allocation fails") {
    auto config = tiny::config({5, no_window});
    config.intermediate_size = 1000;  // takes scratch memory after the first cache has been written
    const auto model = tiny::model<float>(config, Cpu(1));
    const auto tokens = tiny::tokens(20);
    Session whole(model);
    whole.append(tokens);
    const auto expected = tiny::logits(whole);
    int failures = 0;
    for (long failing = 1;; ++failing) {
        Session session(model, {.rewind = 6});
        session.append(std::span(tokens).first(19));
        session.push(tokens[19]);
        session = Session(session);  // without scratch memory
        bool failed = false;
        failing_allocation = allocations + failing;
        try {
            static_cast<void>(session.logits(std::span(tokens).first(6)));
        } catch (const std::bad_alloc&) {
            failed = true;
        }
        failing_allocation = std::numeric_limits<long>::max();
        CHECK(session.position() == 20);
        CHECK(tiny::logits(session) == expected);
        if (!failed) break;
        ++failures;
    }
    CHECK((failures >= 3 || !counts));
}

TEST_CASE("a session stays usable whichever allocation fails") {
    auto config = tiny::config({5, no_window});
    config.intermediate_size = 1000;  // takes scratch memory after the first cache has been written
    const auto model = tiny::model<float>(config, Cpu(1));
    const auto tokens = tiny::tokens(22);
    const std::span<const Token> all(tokens);
    Session whole(model);
    whole.append(all);
    const auto expected = tiny::logits(whole);

    int failures = 0;
    int emptied = 0;
    for (long failing = 1;; ++failing) {
        Session session(model, {.rewind = 3, .chunk = 4});
        session.append(all.first(12));
        session = Session(session);  // without scratch memory
        session.push(all[12]);
        bool failed = false;
        failing_allocation = allocations + failing;
        try {
            session.append(all.subspan(13));
        } catch (const std::bad_alloc&) {
            failed = true;
        }
        failing_allocation = std::numeric_limits<long>::max();
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

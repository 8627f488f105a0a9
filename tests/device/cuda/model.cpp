#include <mistral/cuda.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "emulation/emulation.hpp"
#include "generate/tiny_model.hpp"
#include "model_logits.hpp"

using namespace mistral;
using namespace model_logits;

TEST_CASE("a packed file of the GPU's order is written once, then mapped, and is none of the processor's") {
    const std::string directory = MISTRAL_TEST_DATA "/reference/grouped";
    const auto file = std::filesystem::temp_directory_path() / "mistral_test_cuda.packed";
    std::filesystem::remove(file);
    const auto tokens = some_tokens(5, 64);
    const auto load = [&](const Cuda& device) {
        return logits_of<float>(MistralModel<Q4, Cuda>::load(directory, device, {.packed_file = file}), tokens, 1);
    };
    const auto expected = logits_of<float>(MistralModel<Q4, Cuda>::load(directory, Cuda()), tokens, 1);
    CHECK(load(Cuda()) == expected);
    const auto written = std::filesystem::last_write_time(file);
    CHECK(load(Cuda()) == expected);
    CHECK(std::filesystem::last_write_time(file) == written);
    static_cast<void>(MistralModel<Q4, Cpu>::load(directory, Cpu(1), {.packed_file = file}));
    CHECK(std::filesystem::last_write_time(file) != written);
    std::filesystem::remove(file);
}

TEST_CASE("sequences in one pass give the bits that each gives alone, at more positions than are kept on the GPU") {
    const auto model = MistralModel<bfloat16, Cuda>::load(MISTRAL_TEST_DATA "/reference/short", Cuda());
    using TestSession = Session<MistralModel<bfloat16, Cuda>>;
    const auto tokens = some_tokens(90, model.config().vocab_size);
    for (const std::size_t count : {3u, 70u}) {
        std::vector<TestSession> sessions;
        std::vector<TestSession*> pointers;
        sessions.reserve(count);
        for (std::size_t i = 0; i < count; ++i) {
            sessions.emplace_back(model);
            pointers.push_back(&sessions.back());
        }
        // Some are alone now and then, which records and repeats passes between the others.
        const std::size_t most = count == 3 ? 16 : 2;
        std::vector<std::vector<float>> alone(count);
        for (std::size_t i = 0; i < count; ++i) {
            TestSession session(model);
            session.append(std::span(tokens).first(1 + i));
            for (std::size_t step = 0; step < most; ++step) session.push(tokens[step]);
            alone[i] = tiny::logits(session);
            sessions[i].append(std::span(tokens).first(1 + i));
        }
        for (std::size_t step = 0; step < most; ++step) {
            for (TestSession* session : pointers) session->push(tokens[step]);
            if (step % 5 == 3) static_cast<void>(pointers.front()->logits());
            TestSession::compute_logits(pointers);
        }
        // Up to 16 tokens are multiplied as one is; more go to tensor cores, which round activations to bfloat16.
        for (std::size_t i = 0; i < count; ++i) {
            CAPTURE(i);
            const auto found = tiny::logits(sessions[i]);
            const std::vector<double> expected(alone[i].begin(), alone[i].end());
            CHECK(largest_difference(found, expected) <= (count == 3 ? 0 : 0.2));
        }
    }
}

TEST_CASE("sequences in one pass cost no more launches than one does") {
    const auto model = MistralModel<bfloat16, Cuda>::load(MISTRAL_TEST_DATA "/reference/short", Cuda());
    using TestSession = Session<MistralModel<bfloat16, Cuda>>;
    const auto launches = [&](std::size_t count) {
        std::vector<TestSession> sessions(count, TestSession(model));
        std::vector<TestSession*> pointers;
        for (std::size_t i = 0; i < count; ++i) {
            sessions[i].append(some_tokens(static_cast<Index>(1 + i), model.config().vocab_size));
            sessions[i].push(1);
            pointers.push_back(&sessions[i]);
        }
        const std::size_t before = emulation::counts().launches;
        TestSession::compute_logits(pointers);
        return emulation::counts().launches - before;
    };
    const std::size_t one = launches(1);
    CHECK(one > 0);
    CHECK(launches(2) == one);
    CHECK(launches(most_sequences) == one);
}

TEST_CASE("sessions on a GPU rewind, fork, save and restore as on the processor") {
    const std::string directory = MISTRAL_TEST_DATA "/reference/long";
    const auto model = MistralModel<bfloat16, Cuda>::load(directory, Cuda());
    const auto tokens = some_tokens(60, model.config().vocab_size);
    const std::span<const Token> all(tokens);
    Session session(model, {.rewind = 8});
    session.append(all.first(50));
    for (const Token token : all.subspan(50)) session.push(token);
    const auto expected = tiny::logits(session);

    Session fork = session.fork();
    fork.rewind_to(55);
    for (const Token token : all.subspan(55)) fork.push(token);
    CHECK(tiny::logits(fork) == expected);

    std::stringstream saved;
    session.save(saved);
    Session restored(model, {.rewind = 8});
    restored.restore(saved);
    CHECK(tiny::logits(restored) == expected);
    session.push(5);
    restored.push(5);
    CHECK(tiny::logits(session) == tiny::logits(restored));
}

TEST_CASE("sessions on several threads share a GPU and a model, and write what each writes alone") {
    const auto model = MistralModel<bfloat16, Cuda>::load(MISTRAL_TEST_DATA "/reference/short", Cuda());
    const auto text = [&](std::uint64_t seed) {
        Session session(model);
        std::vector<Token> tokens;
        const auto prompt = some_tokens(20, model.config().vocab_size);
        for (const Token token : session.generate(prompt, {.max_tokens = 10, .temperature = 1, .seed = seed}))
            tokens.push_back(token);
        return tokens;
    };
    const std::vector<std::vector<Token>> expected{text(1), text(2), text(3)};
    std::vector<std::vector<Token>> found(expected.size());
    {
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < found.size(); ++i) threads.emplace_back([&, i] { found[i] = text(i + 1); });
    }
    CHECK(found == expected);
}

TEST_CASE("the bundled model writes the same text as on the processor") {
    const std::string directory = MISTRAL_MODELS "/shakespeare";
    const auto tokenizer = Tokenizer::load(directory);
    const auto prompt = tokenizer.encode("ROMEO:");
    const auto text = [&](const auto& model) {
        Session session(model);
        std::vector<Token> tokens;
        for (const Token token : session.generate(prompt, {.max_tokens = 8, .temperature = 0})) tokens.push_back(token);
        return tokens;
    };
    CHECK(text(MistralModel<bfloat16, Cuda>::load(directory, Cuda())) == text(MistralModel<bfloat16>::load(directory)));
}

TEST_CASE("whatever call of CUDA's fails, the error says which, and nothing is leaked") {
    const std::string directory = MISTRAL_TEST_DATA "/reference/short";
    const auto tokens = some_tokens(20, 64);
    const auto use = [&] {
        const auto model = MistralModel<bfloat16, Cuda>::load(directory, Cuda());
        Session session(model);
        session.append(tokens);
        session.push(3);
        static_cast<void>(session.logits());
        session.push(4);
        static_cast<void>(session.logits());
        session.push(5);
        static_cast<void>(session.logits());
    };
    emulation::reset();
    const auto before = emulation::counts();
    use();
    const std::size_t calls = emulation::counts().calls;
    CHECK(calls > 100);
    int silent = 0;
    for (std::size_t n = 1; n <= calls; n += 1 + n / 7) {
        CAPTURE(n);
        emulation::reset();
        emulation::fail_call(n, cudaErrorMemoryAllocation);
        std::string message;
        try {
            use();
        } catch (const Error& error) {
            message = error.what();
        }
        silent += message.empty();
        const auto after = emulation::counts();
        CHECK(after.live_allocations == before.live_allocations);
        CHECK(after.live_host_allocations == before.live_host_allocations);
        CHECK(after.live_handles == before.live_handles);
    }
    emulation::reset();
    CHECK(silent <= 2);  // streams wait when they go, and destructors throw nothing
}

TEST_CASE("a GPU that is not there is refused by number, and so is one too old") {
    emulation::reset();
    CHECK_THROWS_WITH_AS(Cuda(1), "GPU 1 was asked for, but there are 1, counted from 0", Error);
    CHECK_THROWS_AS(Cuda(-1), Error);
    emulation::set_device_count(0);
    CHECK_THROWS_AS(Cuda(), Error);
    emulation::reset();
    emulation::set_attribute(cudaDevAttrComputeCapabilityMajor, 7);
    CHECK_THROWS_WITH_AS(Cuda(), "GPU 0 has compute capability 7, expected 8 (Ampere) or newer", Error);
    emulation::reset();
}

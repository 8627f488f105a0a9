// README's promise with the bundled model: the same bits for any number of threads and chunks, with drafts and without,
// whatever other sessions do.

#include <doctest/doctest.h>

#include <cstddef>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <mistral/checkpoint/load.hpp>
#include <mistral/generate/session.hpp>

#include "checkpoint/files.hpp"
#include "tiny_model.hpp"

using namespace mistral;

namespace {

/// The bundled model on so many threads, quantised once.
template <class S>
MistralModel<S> bundled(Index threads, ActivationPrecision precision, Index window = 64) {
    static const files::ScratchDirectory directory;
    LoadOptions options{.windows = std::vector<Index>{window}};
    if (QuantizedScalar<S>) options.packed_file = directory / "weights.packed";
    return MistralModel<S>::load(MISTRAL_MODELS "/shakespeare",
                                 Cpu(CpuOptions{.threads = threads, .activation_precision = precision}), options);
}

/// Part of a text that the model knows; longer than its window of 64.
std::span<const Token> known_text(std::size_t length) {
    static const auto tokens =
        files::read_json(files::reference / "shakespeare.json").at("tokens").get<std::vector<Token>>();
    return std::span(tokens).first(length);
}

/// All that a session shows of a prompt and of the tokens that follow it.
struct Outcome {
    std::vector<float> logits;  ///< after the prompt
    std::vector<Token> tokens;
    std::vector<double> logprobs;
    std::vector<float> last_logits;
    Index drafted = 0;
    Index accepted = 0;

    friend bool operator==(const Outcome& a, const Outcome& b) {
        return a.logits == b.logits && a.tokens == b.tokens && a.logprobs == b.logprobs &&
               a.last_logits == b.last_logits;
    }
};

template <class Model>
Outcome run(const Model& model, std::span<const Token> prompt, Index chunk, GenerateOptions options) {
    options.ignore_eos = true;
    Session session(model, {.rewind = options.draft_tokens, .chunk = chunk});
    session.append(prompt);
    Outcome run;
    run.logits = tiny::logits(session);
    auto generation = session.generate({}, options);
    while (generation.next()) {
        run.tokens.push_back(generation.token());
        run.logprobs.push_back(generation.logprob());
    }
    run.last_logits = tiny::logits(session);
    run.drafted = generation.drafted();
    run.accepted = generation.accepted();
    return run;
}

const GenerateOptions greedy_options{.max_tokens = 6};
const GenerateOptions sampled_options{.max_tokens = 6, .temperature = 1, .top_p = 0.95f, .seed = 4};

}  // namespace

TEST_CASE_TEMPLATE("a prompt and what follows give the same bits on any number of threads", S, bfloat16, Q8, Q4) {
    struct Way {
        ActivationPrecision precision;
        Index window;
    };
    for (const Way& way : {Way{ActivationPrecision::precise, 64}, Way{CpuOptions{}.activation_precision, no_window}}) {
        CAPTURE(way.window);
        const Outcome expected = run(bundled<S>(1, way.precision, way.window), known_text(110), 48, sampled_options);
        for (const Index threads : {2, 3, 8})
            CHECK(run(bundled<S>(threads, way.precision, way.window), known_text(110), 48, sampled_options) ==
                  expected);
    }
}

TEST_CASE_TEMPLATE("precise chunks of any size give the same bits", S, bfloat16, Q8, Q4) {
    const auto model = bundled<S>(2, ActivationPrecision::precise);
    const Outcome expected = run(model, known_text(110), 512, greedy_options);
    for (const Index chunk : {7, 33, 64}) CHECK(run(model, known_text(110), chunk, greedy_options) == expected);
}

TEST_CASE_TEMPLATE("quantised sessions that run at the same time give the bits of one alone", Q, Q8, Q4) {
    const auto model = bundled<Q>(2, ActivationPrecision::balanced);
    const Outcome expected = run(model, known_text(100), 48, sampled_options);
    std::vector<Outcome> found(3);
    {
        std::vector<std::jthread> threads;
        for (Outcome& one : found)
            threads.emplace_back([&] { one = run(model, known_text(100), 48, sampled_options); });
    }
    for (const Outcome& one : found) CHECK(one == expected);
}

TEST_CASE_TEMPLATE("drafts change nothing with quantised weights", Q, Q8, Q4) {
    for (const ActivationPrecision precision : {ActivationPrecision::precise, CpuOptions{}.activation_precision}) {
        const auto model = bundled<Q>(2, precision);
        Index accepted = 0;
        Index rejected = 0;
        for (GenerateOptions options : {greedy_options, sampled_options}) {
            options.max_tokens = 40;
            // Mostly five tokens in turn, so that drafts come true, but not all of them.
            options.logit_hook = [turn = 0](std::span<float> logits) mutable {
                logits[static_cast<std::size_t>(300 + turn++ % 5)] += 11;
            };
            const Outcome expected = run(model, known_text(70), 512, options);
            for (const Index drafts : {5, 16}) {
                options.draft_tokens = drafts;
                const Outcome found = run(model, known_text(70), 512, options);
                CHECK(found == expected);
                accepted += found.accepted;
                rejected += found.drafted - found.accepted;
            }
        }
        CHECK(accepted > 10);  // else little was tested
        CHECK(rejected > 10);
    }
}

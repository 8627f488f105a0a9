#include <mistral/model/mistral_model.hpp>

#include <mistral/checkpoint/load.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "batched_sequence.hpp"
#include "golden_models.hpp"
#include "goldens.hpp"
#include "message_of.hpp"
#include "plain_mistral.hpp"

using namespace mistral;
using goldens::BatchedSequence;

TEST_CASE_TEMPLATE("sequences in one pass give the bits that each gives alone, in ragged chunks around the ring", S,
                   double, float, half, bfloat16, Q8, Q4) {
    using Model = MistralModel<S>;
    using C = DefaultCacheScalar<S>;
    const Cpu device({.threads = 2, .activation_precision = ActivationPrecision::precise});
    for (const goldens::Golden& golden : goldens::Golden::all()) {
        CAPTURE(golden.directory);
        const auto model = Model::load(golden.directory, device);
        plain::Random random(5);
        std::vector<BatchedSequence<Model, C>> sequences;
        for (const Index length : {1, 40, 70, 71, 25})
            sequences.emplace_back(model, random.tokens(length, model.config().vocab_size));
        int passes = 0, rows = 0, different = 0;
        while (std::any_of(sequences.begin(), sequences.end(), [](const auto& s) { return s.left() > 0; })) {
            std::vector<typename Model::template SequenceChunk<C>> chunks;
            std::vector<BatchedSequence<Model, C>*> taken;
            for (auto& sequence : sequences) {
                // Now and then none, one token with its logits as in generation, or some with the logits of a few.
                const Index count = std::min(sequence.left(), passes % 3 == 0 ? Index{1} : random.number(0, 9));
                if (count == 0) continue;
                chunks.push_back(sequence.chunk(count, passes % 3 == 0 ? 1 : random.number(0, count)));
                taken.push_back(&sequence);
                rows += static_cast<int>(chunks.back().logits.rows());
            }
            model.forward(std::span<const typename Model::template SequenceChunk<C>>(chunks));
            for (const auto* sequence : taken) different += !sequence->agrees();
            ++passes;
        }
        CHECK(rows > 60);
        CHECK(different == 0);
    }
}

TEST_CASE("a pass of several sequences is refused before anything is changed") {
    using Model = MistralModel<float>;
    const auto model = Model::load(MISTRAL_TEST_DATA "/reference/long", Cpu(1));
    const std::vector<Token> tokens{1, 2, 3};
    const Index vocab = model.config().vocab_size;
    BatchedSequence<Model, float> first(model, tokens);
    BatchedSequence<Model, float> second(model, tokens);
    using Chunks = std::vector<Model::SequenceChunk<float>>;
    const auto message = [&](const Chunks& chunks) {
        return message_of([&] { model.forward(std::span<const Model::SequenceChunk<float>>(chunks)); });
    };
    const auto good = first.chunk(2, 1);
    CHECK(message({good, good}) == "chunks 0 and 1 of a pass are of the same state, expected one of each");
    auto bad = second.chunk(2, 1);
    const std::vector<Token> unknown{1, static_cast<Token>(vocab)};
    bad.tokens = unknown;
    CHECK(message({good, bad}) == concat("token ", vocab, " is outside the vocabulary of ", vocab));
    bad = second.chunk(2, 1);
    bad.logits = {second.found.data(), 1, vocab - 1};
    CHECK(message({good, bad}).find("expected at most [2, ") != std::string::npos);
    CHECK(first.state.position() == 0);
    CHECK(second.state.position() == 0);
    CHECK(message({}).empty());
    CHECK(message({good, second.chunk(3, 2)}).empty());
    CHECK(first.agrees());
    CHECK(second.agrees());
}

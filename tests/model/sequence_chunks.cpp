#include <mistral/model/mistral_model.hpp>

#include <mistral/checkpoint/load.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "golden_models.hpp"
#include "goldens.hpp"
#include "message_of.hpp"
#include "plain_mistral.hpp"

using namespace mistral;

namespace {

/// One of the sequences of a batch: what it computes with others must be what it computes alone.
template <class Model, class C>
struct Sequence {
    using A = typename Model::A;

    Sequence(const Model& model, std::vector<Token> all)
        : tokens(std::move(all)), state(model.device(), model.config()), vocab(model.config().vocab_size) {
        const std::vector<Index> ones{1};
        expected = goldens::logits_of<Model, C>(model, tokens, ones);
    }

    [[nodiscard]] Index left() const { return static_cast<Index>(tokens.size()) - state.position(); }

    /// The next `count` tokens, with the logits of the last `rows`.
    typename Model::template SequenceChunk<C> chunk(Index count, Index rows) {
        first_row = state.position() + count - rows;
        found.assign(static_cast<std::size_t>(rows * vocab), A(-1));
        const std::span<const Token> all(tokens);
        return {all.subspan(static_cast<std::size_t>(state.position()), static_cast<std::size_t>(count)), &state,
                MatrixView<A>(found.data(), rows, vocab)};
    }

    /// Whether the logits of the last chunk are those of the sequence alone, to the last bit.
    [[nodiscard]] bool agrees() const {
        return std::equal(found.begin(), found.end(), expected.begin() + first_row * vocab);
    }

    std::vector<Token> tokens;
    SequenceState<C, typename Model::DeviceType> state;
    Index vocab;
    std::vector<A> expected;  // [tokens, vocab]
    std::vector<A> found;
    Index first_row = 0;
};

}  // namespace

TEST_CASE_TEMPLATE("sequences in one pass give the bits that each gives alone, in ragged chunks around the ring", S,
                   double, float, half, bfloat16, Q8, Q4) {
    using Model = MistralModel<S>;
    using C = DefaultCacheScalar<S>;
    const Cpu device({.threads = 2, .activation_precision = ActivationPrecision::precise});
    for (const goldens::Golden& golden : goldens::Golden::all()) {
        CAPTURE(golden.directory);
        const auto model = Model::load(golden.directory, device);
        plain::Random random(5);
        std::vector<Sequence<Model, C>> sequences;
        for (const Index length : {1, 40, 70, 71, 25})
            sequences.emplace_back(model, random.tokens(length, model.config().vocab_size));
        int passes = 0, rows = 0, different = 0;
        while (std::any_of(sequences.begin(), sequences.end(), [](const auto& s) { return s.left() > 0; })) {
            std::vector<typename Model::template SequenceChunk<C>> chunks;
            std::vector<Sequence<Model, C>*> taken;
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
    Sequence<Model, float> first(model, tokens);
    Sequence<Model, float> second(model, tokens);
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

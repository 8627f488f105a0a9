#include <mistral/cuda.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "emulation/emulation.hpp"
#include "model/batched_sequence.hpp"
#include "model/plain_mistral.hpp"
#include "model_logits.hpp"

// Passes that are recorded and repeated, against the same passes without that, and against each sequence alone.

using namespace mistral;
using namespace model_logits;

namespace {

using Model = MistralModel<bfloat16, Cuda>;
using Sequence = goldens::BatchedSequence<Model, float>;
using Sequences = std::vector<Sequence*>;

/// Two layers, whose caches wrap at different times.
Model model() {
    const Config config{.layers = 2,
                        .hidden_size = 16,
                        .intermediate_size = 20,
                        .query_heads = 4,
                        .kv_heads = 2,
                        .head_dim = 8,
                        .vocab_size = 30,
                        .max_positions = 64,
                        .rope_theta = 1e4,
                        .norm_eps = 1e-5,
                        .windows = {4, 7}};
    return plain::Mistral(config, 1).model<bfloat16>(Cuda());
}

/// A sequence that stands at `position`, and whose caches keep `rewind` more than their windows.
Sequence sequence(const Model& model, unsigned seed, Index position = 0, Index rewind = 0) {
    constexpr Index length = 40;
    Sequence result(model, plain::Random(seed).tokens(length, model.config().vocab_size), {.rewind = rewind});
    const std::span<const Token> tokens(result.tokens);
    model.forward<float>(tokens.first(static_cast<std::size_t>(position)), result.state, {});
    return result;
}

Sequences pointers_to(std::vector<Sequence>& sequences) {
    Sequences pointers;
    for (Sequence& sequence : sequences) pointers.push_back(&sequence);
    return pointers;
}

/// How a pass was done.
enum class Way { performed, recorded, repeated };

/// A pass over so many tokens of each, with the logits of the last, or of none of the first sequence's.
Way forward(const Model& model, const Sequences& sequences, Index tokens = 1, Index logits_of_first = 1) {
    std::vector<Model::SequenceChunk<float>> chunks;
    for (Sequence* sequence : sequences)
        chunks.push_back(sequence->chunk(tokens, chunks.empty() ? logits_of_first : 1));
    const emulation::Counts before = emulation::counts();
    model.forward(std::span<const Model::SequenceChunk<float>>(chunks));
    const emulation::Counts after = emulation::counts();
    if (after.graph_launches == before.graph_launches) return Way::performed;
    return after.launches > before.launches ? Way::recorded : Way::repeated;
}

/// The next token of each. Copies take it before, whose pass, the first of its kind, is only performed.
Way step(const Model& model, const Sequences& sequences) {
    std::vector<Sequence> copies;
    for (const Sequence* sequence : sequences) copies.push_back(*sequence);
    CHECK(forward(model, pointers_to(copies)) == Way::performed);
    const Way way = forward(model, sequences);
    for (std::size_t i = 0; i < sequences.size(); ++i) {
        CAPTURE(i);
        CHECK(sequences[i]->found == copies[i].found);
        CHECK(sequences[i]->agrees());
        CHECK(sequences[i]->state.position() == copies[i].state.position());
    }
    return way;
}

/// Three steps: the first of their kind, one that is recorded, and one that is repeated.
void steps_from_the_first(const Model& model, const Sequences& sequences) {
    CHECK(step(model, sequences) == Way::performed);
    CHECK(step(model, sequences) == Way::recorded);
    CHECK(step(model, sequences) == Way::repeated);
}

}  // namespace

TEST_CASE("steps are recorded once and repeated, over several turns of the ring, and nothing allocates") {
    emulation::reset();
    const auto model = MistralModel<float, Cuda>::load(MISTRAL_TEST_DATA "/reference/long", Cuda());
    const Index window = model.config().window(0);
    const auto tokens = some_tokens(3 * window + 5, model.config().vocab_size);
    MistralModel<float, Cuda>::State<float> state(model.device(), model.config());
    const Index vocab = model.config().vocab_size;
    std::vector<float> logits(static_cast<std::size_t>(vocab));
    std::vector<float> found;
    std::size_t allocations = 0, launches = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        model.forward({&tokens[i], 1}, state, MatrixView<float>(logits.data(), 1, vocab));
        found.insert(found.end(), logits.begin(), logits.end());
        if (i == 1) {
            allocations = emulation::counts().allocations;
            launches = emulation::counts().launches;
        }
    }
    CHECK(emulation::counts().allocations == allocations);
    CHECK(emulation::counts().launches == launches);  // all others were in graphs
    CHECK(emulation::counts().graph_launches == tokens.size() - 1);

    // In chunks of another size, of which none is recorded; and with the logits of their last tokens alone.
    const auto expected = logits_of<float>(model, tokens, 3);
    const std::vector<double> exact(expected.begin(), expected.end());
    CHECK(largest_difference(found, exact) == 0);
    state.clear();
    for (std::size_t done = 0; done + 7 <= tokens.size(); done += 7) {
        model.forward(std::span(tokens).subspan(done, 7), state, MatrixView<float>(logits.data(), 1, vocab));
        CHECK(std::equal(logits.begin(), logits.end(), expected.begin() + static_cast<Index>(done + 6) * vocab));
    }
}

TEST_CASE("a step of several sequences is recorded once and repeated, while their rings turn at different times") {
    const Model model = ::model();
    std::vector<Sequence> sequences;
    for (unsigned i = 0; i < 3; ++i) sequences.push_back(sequence(model, i, 5 * i, i));
    const Sequences all = pointers_to(sequences);
    steps_from_the_first(model, all);
    for (int i = 0; i < 15; ++i) CHECK(step(model, all) == Way::repeated);
    const std::size_t allocations = emulation::counts().allocations;
    for (int i = 0; i < 5; ++i) {
        CHECK(forward(model, all) == Way::repeated);
        for (const Sequence* each : all) CHECK(each->agrees());
    }
    CHECK(emulation::counts().allocations == allocations);
}

TEST_CASE("as many sequences as a verb takes are a step that is recorded and repeated, and more are not") {
    const Model model = ::model();
    const Sequence first = sequence(model, 1, 3), second = sequence(model, 2);
    std::vector<Sequence> sequences;
    for (std::size_t i = 0; i < most_sequences; ++i) sequences.push_back(i % 3 == 0 ? first : second);
    steps_from_the_first(model, pointers_to(sequences));
    sequences.push_back(first);
    for (int i = 0; i < 3; ++i) CHECK(forward(model, pointers_to(sequences)) == Way::performed);
}

TEST_CASE("another order or composition of a batch is another pass, and the former ones are still known") {
    const Model model = ::model();
    Sequence a = sequence(model, 1, 3), b = sequence(model, 2), c = sequence(model, 3, 8);
    for (const Sequences& batch : {Sequences{&a, &b, &c}, {&a, &c, &b}, {&b, &a, &c}, {&a, &b}, {&a}, {&b, &c}})
        steps_from_the_first(model, batch);
    for (const Sequences& batch : {Sequences{&a, &b, &c}, {&a}, {&b, &a, &c}, {&a, &b}, {&a, &c, &b}, {&b, &c}})
        CHECK(step(model, batch) == Way::repeated);
}

TEST_CASE("a sequence in the place of another is never taken for it, and a moved one stays what it is") {
    const Model model = ::model();
    const Sequence fresh = sequence(model, 5, 2);
    Sequence a = sequence(model, 1, 3), b = sequence(model, 2);
    steps_from_the_first(model, {&a, &b});
    for (int i = 0; i < 5; ++i) {
        b = fresh;  // where the memory of the former one may be taken again
        steps_from_the_first(model, {&a, &b});
    }
    b = Sequence(b);  // a copy of itself
    steps_from_the_first(model, {&a, &b});
    Sequence moved = std::move(b);
    CHECK(step(model, {&a, &moved}) == Way::repeated);
    Sequence leader = std::move(a);
    CHECK(step(model, {&leader, &moved}) == Way::repeated);
    leader = fresh;
    steps_from_the_first(model, {&leader, &moved});
    steps_from_the_first(model, {&moved, &leader});
    std::swap(leader, moved);
    CHECK(step(model, {&leader, &moved}) == Way::repeated);
    CHECK(step(model, {&moved, &leader}) == Way::repeated);
}

TEST_CASE("sequences rewind between repeated steps, each as far as it can") {
    const Model model = ::model();
    const std::vector<Index> rewinds{5, 2, 8};
    std::vector<Sequence> sequences;
    for (unsigned i = 0; i < 3; ++i) sequences.push_back(sequence(model, i, 7 * i, rewinds[i]));
    const Sequences all = pointers_to(sequences);
    for (int i = 0; i < 6; ++i) forward(model, all);
    for (const Index length : {1, 5, 8}) {
        for (std::size_t i = 0; i < all.size(); ++i)
            all[i]->state.rewind_to(all[i]->state.position() - std::min(length, rewinds[i]));
        for (Index i = 0; i < length + 2; ++i) CHECK(step(model, all) == Way::repeated);
    }
    all[1]->state.clear();
    CHECK(step(model, all) == Way::repeated);
}

TEST_CASE("the passes that were performed last are known, so many and no more, and none keeps a cache alive") {
    const Model model = ::model();
    const Sequence fresh = sequence(model, 5, 2);
    Sequence leader = sequence(model, 1);
    Sequence first = fresh;
    steps_from_the_first(model, {&leader, &first});
    const emulation::Counts before = emulation::counts();
    {
        std::vector<Sequence> others(CudaWorkspace::most_passes - 1, fresh);
        const auto handles = emulation::counts().live_handles;
        for (Sequence& other : others) steps_from_the_first(model, {&leader, &other});
        CHECK(emulation::counts().live_handles == handles + others.size());
        CHECK(step(model, {&leader, &first}) == Way::repeated);

        Sequence last = fresh;
        const auto with_last = emulation::counts().live_handles;
        steps_from_the_first(model, {&leader, &last});
        CHECK(emulation::counts().live_handles == with_last);  // its record has the place of another
        CHECK(step(model, {&leader, &first}) == Way::repeated);
        CHECK(step(model, {&leader, &others[1]}) == Way::repeated);
        steps_from_the_first(model, {&leader, &others[0]});
    }
    CHECK(emulation::counts().live_bytes == before.live_bytes);
}

TEST_CASE("passes of several tokens, or without the logits of a sequence, are performed each time") {
    const Model model = ::model();
    Sequence a = sequence(model, 1, 3), b = sequence(model, 2), c = sequence(model, 3, 8);
    const Sequences all{&a, &b, &c};
    for (int i = 0; i < 3; ++i)
        for (const auto& [tokens, logits_of_first] : {std::pair<Index, Index>{1, 0}, {2, 1}, {2, 2}}) {
            CHECK(forward(model, all, tokens, logits_of_first) == Way::performed);
            for (const Sequence* each : all) CHECK(each->agrees());
        }
    steps_from_the_first(model, all);
    CHECK(forward(model, all, 1, 0) == Way::performed);
    CHECK(step(model, all) == Way::repeated);
}

TEST_CASE("a token without logits of a sequence alone is a pass of its own kind") {
    const Model model = ::model();
    Sequence a = sequence(model, 1, 3);
    for (const Way way : {Way::performed, Way::recorded, Way::repeated}) {
        CHECK(forward(model, {&a}, 1, 0) == way);
        CHECK(step(model, {&a}) == way);
    }
}

TEST_CASE("whatever call fails, a step of several sequences can be taken again") {
    const Model model = ::model();
    const Sequence fresh = sequence(model, 5, 2);
    for (const std::size_t steps_before : {0u, 1u, 2u}) {
        int failures = 0;
        bool failed = true;
        for (std::size_t n = 1; failed; n += 1 + n / 4) {
            CAPTURE(n);
            failed = false;
            Sequence a = fresh, b = fresh;
            const Sequences both{&a, &b};
            for (std::size_t i = 0; i < steps_before; ++i) forward(model, both);
            const Index position = a.state.position();
            emulation::fail_call(n);
            try {
                forward(model, both);
            } catch (const Error&) {
                failed = true;
                ++failures;
                for (Sequence* each : both) each->state.rewind_to(position);
            }
            emulation::reset();
            Way way = Way::performed;
            for (int i = 0; i < 3; ++i) {
                way = forward(model, both);
                for (const Sequence* each : both) CHECK(each->agrees());
            }
            CHECK(way == Way::repeated);
        }
        CHECK(failures > 4);
    }
}

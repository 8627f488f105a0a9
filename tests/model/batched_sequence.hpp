#pragma once

#include <mistral/model/mistral_model.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "golden_models.hpp"

namespace goldens {

/// One of the sequences of a batch: what it computes with others must be what it computes alone.
template <class Model, class C>
struct BatchedSequence {
    using A = typename Model::A;

    BatchedSequence(const Model& model, std::vector<Token> all, mistral::CacheLimits limits = {})
        : tokens(std::move(all)), state(model.device(), model.config(), limits), vocab(model.config().vocab_size) {
        const std::vector<Index> ones{1};
        expected = logits_of<Model, C>(model, tokens, ones);
    }

    [[nodiscard]] Index left() const { return static_cast<Index>(tokens.size()) - state.position(); }

    /// The next `count` tokens, with the logits of the last `rows`.
    typename Model::template SequenceChunk<C> chunk(Index count, Index rows) {
        first_row = state.position() + count - rows;
        found.assign(static_cast<std::size_t>(rows * vocab), A(-1));
        const std::span<const Token> all(tokens);
        return {all.subspan(static_cast<std::size_t>(state.position()), static_cast<std::size_t>(count)), &state,
                mistral::MatrixView<A>(found.data(), rows, vocab)};
    }

    /// Whether the logits of the last chunk are those of the sequence alone, to the last bit.
    [[nodiscard]] bool agrees() const {
        return std::equal(found.begin(), found.end(), expected.begin() + first_row * vocab);
    }

    std::vector<Token> tokens;
    mistral::SequenceState<C, typename Model::DeviceType> state;
    Index vocab;
    std::vector<A> expected;  // [tokens, vocab]
    std::vector<A> found;
    Index first_row = 0;
};

}  // namespace goldens

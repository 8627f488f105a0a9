#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/types.hpp>

#include <cassert>
#include <cstddef>
#include <span>
#include <vector>

namespace mistral {

/// Logits of consecutive positions of one sequence: those that its next token is chosen from and, where a draft of what
/// may follow was computed along, those after each drafted token, which count only while the draft comes true.
template <class A>
class LogitRows {
  public:
    explicit LogitRows(Index vocab_size) : vocab_size_(vocab_size), logits_(static_cast<std::size_t>(vocab_size)) {}

    /// Memory for the logits at a position and after each of `drafted` tokens, [1 + drafted, vocab_size], to be written
    /// before `hold`. What is held stays until then.
    [[nodiscard]] MatrixView<A> rows(Index drafted = 0) {
        const auto size = static_cast<std::size_t>((1 + drafted) * vocab_size_);
        if (logits_.size() < size) logits_.resize(size);
        draft_.reserve(static_cast<std::size_t>(drafted));
        return {logits_.data(), 1 + drafted, vocab_size_};
    }

    /// The rows hold the logits at `position`, 1 or more, and after each token of `draft`.
    void hold(Index position, std::span<const Token> draft = {}) {
        first_ = position;
        draft_.assign(draft.begin(), draft.end());
    }

    /// Whether the logits are held that the token at `position` is chosen from.
    [[nodiscard]] bool holds(Index position) const {
        return first_ > 0 && first_ <= position && position <= first_ + static_cast<Index>(draft_.size());
    }

    /// These logits, [vocab_size].
    [[nodiscard]] std::span<const A> at(Index position) const {
        assert(holds(position));
        const auto vocab = static_cast<std::size_t>(vocab_size_);
        return std::span(logits_).subspan(static_cast<std::size_t>(position - first_) * vocab, vocab);
    }

    /// The memory of the first row, whatever it holds.
    [[nodiscard]] std::span<const A> front() const {
        return std::span(logits_).first(static_cast<std::size_t>(vocab_size_));
    }

    /// Whether `token` was drafted for `position`, so that the logits after it are held.
    [[nodiscard]] bool drafted(Token token, Index position) const {
        return holds(position) && holds(position + 1) && draft_[static_cast<std::size_t>(position - first_)] == token;
    }

    /// Forgets the draft from `position` on.
    void drop_draft(Index position) {
        if (holds(position)) draft_.resize(static_cast<std::size_t>(position - first_));
    }

    /// Holds nothing.
    void clear() {
        first_ = 0;
        draft_.clear();
    }

  private:
    Index vocab_size_;
    std::vector<A> logits_;     // [1 + the longest draft so far, vocab_size]
    std::vector<Token> draft_;  // those from position first_ on
    Index first_ = 0;           // 0: nothing is held
};

}  // namespace mistral

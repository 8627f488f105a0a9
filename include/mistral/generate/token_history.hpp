#pragma once

#include <mistral/base/types.hpp>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <span>
#include <vector>

namespace mistral {

/// The newest tokens of a sequence, at least `capacity` of them, in one piece of memory that does not grow.
class TokenHistory {
  public:
    explicit TokenHistory(Index capacity) : capacity_(capacity) {
        assert(capacity > 0);
        tokens_.reserve(static_cast<std::size_t>(2 * capacity));
    }
    TokenHistory(const TokenHistory& other) : TokenHistory(other.capacity_) { *this = other; }
    TokenHistory(TokenHistory&&) noexcept = default;
    /// Keeps the memory, which has room for both.
    TokenHistory& operator=(const TokenHistory& other) = default;
    TokenHistory& operator=(TokenHistory&&) noexcept = default;

    /// Tokens appended so far, which is the position of the next one.
    [[nodiscard]] Index end() const { return end_; }
    /// The position of the oldest token that is kept.
    [[nodiscard]] Index begin() const { return end_ - static_cast<Index>(tokens_.size()); }

    /// The tokens at the positions from `first` on; valid until the next change.
    [[nodiscard]] std::span<const Token> from(Index first) const {
        assert(first >= begin() && first <= end_);
        return std::span(tokens_).subspan(static_cast<std::size_t>(first - begin()));
    }

    /// The newest `count` tokens, or as many as there are; at most `capacity`, so that it does not depend on how they
    /// were appended.
    [[nodiscard]] std::span<const Token> last(Index count) const {
        return from(std::max(begin(), end_ - std::min(count, capacity_)));
    }

    /// Appends at most `capacity` tokens.
    void append(std::span<const Token> tokens) {
        assert(static_cast<Index>(tokens.size()) <= capacity_);
        if (tokens_.size() + tokens.size() > static_cast<std::size_t>(2 * capacity_))
            tokens_.erase(tokens_.begin(), tokens_.end() - static_cast<std::ptrdiff_t>(capacity_));
        tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
        end_ += static_cast<Index>(tokens.size());
    }

    /// Forgets the tokens from `position` on.
    void rewind_to(Index position) {
        assert(position >= begin() && position <= end_);
        tokens_.resize(static_cast<std::size_t>(position - begin()));
        end_ = position;
    }

    /// Starts anew with `tokens`, at most 2 * `capacity`, the last of which stands before position `end`.
    void reset(std::span<const Token> tokens = {}, Index end = 0) {
        assert(static_cast<Index>(tokens.size()) <= std::min(end, 2 * capacity_));
        tokens_.assign(tokens.begin(), tokens.end());
        end_ = end;
    }

  private:
    Index capacity_;
    std::vector<Token> tokens_;
    Index end_ = 0;
};

}  // namespace mistral

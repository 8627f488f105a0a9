#pragma once

#include <mistral/base/types.hpp>
#include <mistral/generate/options.hpp>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <span>
#include <vector>

namespace mistral {

/// Drafts the tokens that a text may go on with, for texts that repeat what they or their prompt said: those that
/// followed where its newest tokens occurred before (prompt lookup decoding, A. Saxena 2023,
/// https://github.com/apoorvumang/prompt-lookup-decoding). After the first draft nothing is allocated.
///
/// A draft that came true makes the next one twice as long; after another, the next is as long as what came true of it.
/// While nothing at all comes true, pauses of 1, 3, 7, 15 and then 31 drafts not made keep the cost of failing small.
class PromptLookup {
  public:
    /// Tokens back that are searched.
    static constexpr Index reach = GenerateOptions::max_repetition_window;

    /// Drafts have at most `most` tokens, 0 or more.
    explicit PromptLookup(Index most) : most_(most), length_(most) {}

    /// Tokens that may follow `history`, whose newest `reach` tokens are enough: at most `limit`, perhaps none; valid
    /// until the next call. The first draft takes all of `limit`, be it by repeating a token: no later one, where
    /// limits only fall, then needs more memory for its computation.
    [[nodiscard]] std::span<const Token> draft(std::span<const Token> history, Index limit) {
        assert(!history.empty());
        learn();
        draft_.clear();
        came_true_ = 0;
        if (limit <= 0 || most_ == 0) return {};
        if (pause_ > 0) {
            --pause_;
            return {};
        }
        const bool is_first = drafted_ == 0;
        const std::size_t period = std::max<std::size_t>(period_of(history), is_first ? 1 : 0);
        if (period == 0) return {};
        const Index count = std::min(length_, limit);
        for (auto i = history.size() - period; static_cast<Index>(draft_.size()) < count; ++i)
            draft_.push_back(i < history.size() ? history[i] : draft_[i - history.size()]);
        drafted_ += count;
        return draft_;
    }

    /// Tells what did follow.
    void push(Token token) {
        if (came_true_ == draft_.size() || draft_[came_true_] != token) return;
        ++came_true_;
        ++accepted_;
    }

    /// Tokens drafted so far, and those of them that came true.
    [[nodiscard]] Index drafted() const { return drafted_; }
    [[nodiscard]] Index accepted() const { return accepted_; }

  private:
    static constexpr std::size_t shortest = 2;  // tokens in common that make an occurrence: one is mostly chance
    static constexpr std::size_t longest = 8;   // as many tell sentences apart that are alike in parts

    /// How far back the newest tokens occurred before: the newest of the occurrences with most in common. 0: nowhere.
    static std::size_t period_of(std::span<const Token> history) {
        const std::size_t size = history.size();
        const std::size_t oldest = size - std::min(size, static_cast<std::size_t>(reach));
        std::size_t found = 0;
        std::size_t most = shortest - 1;
        for (std::size_t end = size - 1; most < longest && end > oldest + most; --end) {
            std::size_t common = 0;
            while (common < std::min(longest, end - oldest) && history[end - 1 - common] == history[size - 1 - common])
                ++common;
            if (common <= most) continue;
            most = common;
            found = size - end;
        }
        return found;
    }

    /// Fits the length of drafts, and the pause before the next, to what became of the last one.
    void learn() {
        if (draft_.empty()) return;
        constexpr int most_failures = 5;
        const auto came_true = static_cast<Index>(came_true_);
        length_ = came_true_ == draft_.size() ? std::min(2 * length_, most_) : std::max<Index>(came_true, 1);
        failures_ = came_true > 0 ? 0 : std::min(failures_ + 1, most_failures);
        pause_ = (1 << failures_) - 1;
    }

    Index most_;
    Index length_;  // of the next draft
    int failures_ = 0;
    int pause_ = 0;
    std::vector<Token> draft_;
    std::size_t came_true_ = 0;  // tokens of draft_
    Index drafted_ = 0;
    Index accepted_ = 0;
};

}  // namespace mistral

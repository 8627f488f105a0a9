#pragma once

#include <mistral/base/types.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// The texts of a vocabulary by token, and the token of a text: by a hash, and among texts that share one by binary
/// search, so that also in a vocabulary made to collide a text is found in O(log n) comparisons. It keeps views, so the
/// characters must outlive it.
class PieceTable {
  public:
    PieceTable() : PieceTable(std::vector<std::string_view>()) {}
    /// Gives the texts their tokens, counting from 0.
    explicit PieceTable(std::vector<std::string_view> texts)
        : texts_(std::move(texts)), starts_(std::bit_ceil(2 * texts_.size() + 1) + 1), sorted_(texts_.size()) {
        for (const std::string_view text : texts_) ++starts_[hash(text)];
        std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());  // each bucket's end, which moves back now
        for (auto token = static_cast<Token>(texts_.size()); token-- > 0;)
            sorted_[--starts_[hash((*this)[token])]] = token;
        for (std::size_t i = 0; i + 1 < starts_.size(); ++i)
            std::ranges::sort(std::span(sorted_).subspan(starts_[i], starts_[i + 1] - starts_[i]), {},
                              [this](Token token) { return std::pair((*this)[token], token); });
    }

    /// The token of `text`, the first one where it has several.
    [[nodiscard]] std::optional<Token> find(std::string_view text) const {
        const std::size_t bucket = hash(text);
        const Token* first = sorted_.data() + starts_[bucket];
        const Token* last = sorted_.data() + starts_[bucket + 1];
        if (last - first > most_compared) {
            const auto less = [this](Token token, std::string_view wanted) { return (*this)[token] < wanted; };
            first = std::lower_bound(first, last, text, less);
            last = std::min(last, first + 1);
        }
        for (; first != last; ++first)
            if ((*this)[*first] == text) return *first;
        return std::nullopt;
    }

    /// The text of `token`, which must be one of the table's.
    [[nodiscard]] std::string_view operator[](Token token) const { return texts_[static_cast<std::size_t>(token)]; }
    [[nodiscard]] Index size() const { return static_cast<Index>(texts_.size()); }

  private:
    static constexpr std::ptrdiff_t most_compared = 8;  ///< one after the other; fuller buckets are searched

    /// The bucket of `text`.
    [[nodiscard]] std::size_t hash(std::string_view text) const {
        return std::hash<std::string_view>{}(text) & (starts_.size() - 2);
    }

    std::vector<std::string_view> texts_;
    std::vector<std::uint32_t> starts_;  // where each of 2^k buckets starts in `sorted_`, and where the last one ends
    std::vector<Token> sorted_;          // by bucket, then by text
};

}  // namespace mistral

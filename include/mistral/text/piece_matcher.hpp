#pragma once

#include <mistral/base/types.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// Finds the longest of a set of pieces that a text starts with, in time proportional to that piece's length. It keeps
/// views, so the characters must outlive it.
class PieceMatcher {
  public:
    struct Match {
        Token token = 0;
        std::size_t size = 0;  ///< bytes
    };

    PieceMatcher() = default;
    /// Pieces that are not empty, each with its token.
    explicit PieceMatcher(std::vector<std::pair<std::string_view, Token>> pieces) : pieces_(std::move(pieces)) {
        std::sort(pieces_.begin(), pieces_.end());
        for (const auto& [text, token] : pieces_) starts_[byte(text, 0)] = true;
    }

    [[nodiscard]] std::optional<Match> longest_prefix_of(std::string_view text) const {
        if (text.empty() || !starts_[byte(text, 0)]) return std::nullopt;
        std::optional<Match> match;
        auto first = pieces_.begin(), last = pieces_.end();
        for (std::size_t depth = 0; first != last; ++depth) {  // all pieces from first to last share `depth` bytes
            if (first->first.size() == depth) match = Match{first->second, depth}, ++first;
            if (depth == text.size()) break;
            const auto less = [depth](const auto& piece, unsigned char c) { return byte(piece.first, depth) < c; };
            const auto more = [depth](unsigned char c, const auto& piece) { return c < byte(piece.first, depth); };
            first = std::lower_bound(first, last, byte(text, depth), less);
            last = std::upper_bound(first, last, byte(text, depth), more);
        }
        return match;
    }

  private:
    static unsigned char byte(std::string_view text, std::size_t i) { return static_cast<unsigned char>(text[i]); }

    std::vector<std::pair<std::string_view, Token>> pieces_;  // sorted by bytes
    std::array<bool, 256> starts_{};                          // whether some piece starts with this byte
};

}  // namespace mistral

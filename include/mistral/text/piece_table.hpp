#pragma once

#include <mistral/base/types.hpp>

#include <bit>
#include <cassert>
#include <cstddef>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

namespace mistral {

/// The texts of a vocabulary by token, and the token of a text by hashing: open addressing with linear probing, at
/// most half full. It keeps views, so the characters must outlive it.
class PieceTable {
  public:
    PieceTable() : PieceTable(0) {}
    /// An empty table with room for `capacity` texts.
    explicit PieceTable(std::size_t capacity) : slots_(std::bit_ceil(2 * capacity + 1), empty) {
        texts_.reserve(capacity);
    }

    /// Gives `text` the next token, counting from 0. Does nothing and returns false where it has one already.
    bool insert(std::string_view text) {
        assert(2 * texts_.size() + 1 < slots_.size());
        Token& slot = slots_[slot_of(text)];
        if (slot != empty) return false;
        slot = static_cast<Token>(texts_.size());
        texts_.push_back(text);
        return true;
    }

    [[nodiscard]] std::optional<Token> find(std::string_view text) const {
        const Token token = slots_[slot_of(text)];
        return token == empty ? std::nullopt : std::optional(token);
    }

    /// The text of `token`, which must be one of the table's.
    [[nodiscard]] std::string_view operator[](Token token) const { return texts_[static_cast<std::size_t>(token)]; }
    [[nodiscard]] Index size() const { return static_cast<Index>(texts_.size()); }

  private:
    static constexpr Token empty = -1;

    /// Where `text` is, or else where it would go.
    [[nodiscard]] std::size_t slot_of(std::string_view text) const {
        std::size_t slot = std::hash<std::string_view>{}(text);
        for (;; ++slot) {
            slot &= slots_.size() - 1;
            if (slots_[slot] == empty || (*this)[slots_[slot]] == text) return slot;
        }
    }

    std::vector<Token> slots_;
    std::vector<std::string_view> texts_;
};

}  // namespace mistral

#pragma once

#include <mistral/base/types.hpp>
#include <mistral/text/piece_matcher.hpp>
#include <mistral/text/piece_table.hpp>
#include <mistral/text/sentencepiece_model.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// A SentencePiece model with what encoding and decoding derive from it. Immutable once made.
class Vocabulary {
  public:
    /// The rank of what no merge makes.
    static constexpr std::uint32_t unmerged = std::numeric_limits<std::uint32_t>::max();

    explicit Vocabulary(SentencePieceModel model) : model_(std::move(model)) {
        rank_pieces();
        list_surfaces();
        user_defined_ = PieceMatcher(pieces_of(PieceType::user_defined));
        control_ = PieceMatcher(pieces_of(PieceType::control));
    }
    // Tokenizers share one and never copy it.
    Vocabulary(const Vocabulary&) = delete;
    Vocabulary& operator=(const Vocabulary&) = delete;

    [[nodiscard]] const SentencePieceModel& model() const { return model_; }
    [[nodiscard]] Index size() const { return model_.pieces.size(); }

    /// When a merge that makes `token` takes place: the lowest rank first. Pieces of one score share a rank.
    [[nodiscard]] std::uint32_t rank(Token token) const { return ranks_[static_cast<std::size_t>(token)]; }
    /// Bytes of the longest piece that a merge can make.
    [[nodiscard]] std::size_t longest_merge() const { return longest_merge_; }
    /// Whether a blank follows another character in no piece, so that no merge crosses the start of a word.
    [[nodiscard]] bool words_are_apart() const { return words_are_apart_; }

    [[nodiscard]] const PieceMatcher& user_defined() const { return user_defined_; }
    [[nodiscard]] const PieceMatcher& control() const { return control_; }

    /// The bytes that `token` stands for.
    [[nodiscard]] std::string_view surface(Token token) const {
        const auto i = static_cast<std::size_t>(token);
        return std::string_view(surfaces_).substr(surface_starts_[i], surface_starts_[i + 1] - surface_starts_[i]);
    }

  private:
    static bool comes_from_text(PieceType type) {
        return type == PieceType::normal || type == PieceType::user_defined || type == PieceType::unused;
    }

    void rank_pieces() {
        std::vector<Token> merged;
        for (Token token = 0; token < size(); ++token)
            if (comes_from_text(model_.type(token))) note_merge(merged.emplace_back(token));
        std::sort(merged.begin(), merged.end(), [&](Token a, Token b) { return model_.score(a) > model_.score(b); });
        ranks_.assign(static_cast<std::size_t>(size()), unmerged);
        std::uint32_t rank = 0;
        for (std::size_t i = 0; i < merged.size(); ++i) {
            if (i > 0 && model_.score(merged[i]) != model_.score(merged[i - 1])) ++rank;
            ranks_[static_cast<std::size_t>(merged[i])] = rank;
        }
    }

    void note_merge(Token token) {
        const std::string_view text = model_.pieces[token];
        longest_merge_ = std::max(longest_merge_, text.size());
        std::size_t word = 0;
        while (text.substr(word).starts_with(piece_blank)) word += piece_blank.size();
        words_are_apart_ = words_are_apart_ && text.find(piece_blank, word) == text.npos;
    }

    void list_surfaces() {
        surface_starts_.reserve(static_cast<std::size_t>(size()) + 1);
        for (Token token = 0; token < size(); ++token) {
            surface_starts_.push_back(static_cast<std::uint32_t>(surfaces_.size()));
            append_surface(token);
        }
        surface_starts_.push_back(static_cast<std::uint32_t>(surfaces_.size()));
        const auto& bytes = model_.byte_tokens;
        for (std::size_t value = 0; model_.byte_fallback && value < bytes.size(); ++value)
            surfaces_[surface_starts_[static_cast<std::size_t>(bytes[value])]] = static_cast<char>(value);
    }

    void append_surface(Token token) {
        const PieceType type = model_.type(token);
        if (comes_from_text(type))
            append_with_blanks(model_.pieces[token]);
        else if (type == PieceType::unknown)
            surfaces_ += model_.unknown_surface;
        else if (type == PieceType::byte)
            surfaces_ += '\0';  // a place for the byte that follows
    }

    void append_with_blanks(std::string_view text) {
        for (std::size_t blank; (blank = text.find(piece_blank)) != text.npos;) {
            surfaces_.append(text.substr(0, blank)).append(1, ' ');
            text.remove_prefix(blank + piece_blank.size());
        }
        surfaces_ += text;
    }

    [[nodiscard]] std::vector<std::pair<std::string_view, Token>> pieces_of(PieceType type) const {
        std::vector<std::pair<std::string_view, Token>> pieces;
        for (Token token = 0; token < size(); ++token)
            if (model_.type(token) == type) pieces.emplace_back(model_.pieces[token], token);
        return pieces;
    }

    SentencePieceModel model_;
    std::vector<std::uint32_t> ranks_;
    std::size_t longest_merge_ = 0;
    bool words_are_apart_ = true;
    PieceMatcher user_defined_;
    PieceMatcher control_;
    std::string surfaces_;  // all of them, one after the other
    std::vector<std::uint32_t> surface_starts_;
};

}  // namespace mistral

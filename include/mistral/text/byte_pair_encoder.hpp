#pragma once

#include <mistral/base/types.hpp>
#include <mistral/base/utf8.hpp>
#include <mistral/text/vocabulary.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

namespace mistral {

/// Byte-pair encoding (Sennrich et al., arXiv:1508.07909) as SentencePiece does it: a text starts as its characters,
/// and of all neighbours that make a piece together, those with the highest score are merged first, the leftmost of
/// equals. Takes O(n log n) steps for n bytes, and up to 28 bytes of memory for each.
///
/// It keeps its memory from one text to the next, so one encoder serves one thread.
class BytePairEncoder {
  public:
    /// Texts must be shorter than this.
    static constexpr std::size_t longest_text = std::numeric_limits<std::uint32_t>::max();

    /// `vocabulary` must outlive the encoder.
    explicit BytePairEncoder(const Vocabulary& vocabulary) : vocabulary_(vocabulary), model_(vocabulary.model()) {}

    /// Appends the tokens of `text`, in which blanks are spelled as in pieces.
    void encode(std::string_view text, std::vector<Token>& tokens) {
        text_ = text;
        splits_.clear();
        split_into_characters();
        merge_all();
        for (Offset symbol = 0; symbol < text.size(); symbol = next_[symbol])
            emit(text.substr(symbol, next_[symbol] - symbol), tokens);
    }

  private:
    /// A symbol, one or more characters, goes by the offset of its first byte.
    using Offset = std::uint32_t;

    void split_into_characters() {
        const std::size_t size = text_.size();
        previous_.resize(std::max(previous_.size(), size + 1));
        next_.resize(std::max(next_.size(), size + 1));
        ranks_.resize(std::max(ranks_.size(), size + 1));
        Offset symbol = 0;
        while (symbol < size) {
            const auto next = static_cast<Offset>(symbol + Utf8::step(text_.substr(symbol)));
            next_[symbol] = next;
            previous_[next] = symbol;
            symbol = next;
        }
    }

    /// The merges of characters are sorted once, and only those that other merges lead to go through the heap: half
    /// the time for long texts.
    void merge_all() {
        first_merges_.clear();
        later_merges_.clear();
        for (Offset symbol = 0; symbol < text_.size(); symbol = next_[symbol])
            if (find_merge(symbol)) first_merges_.push_back(priority(symbol));
        std::sort(first_merges_.begin(), first_merges_.end());
        auto first = first_merges_.cbegin();
        while (first != first_merges_.cend() || !later_merges_.empty()) {
            const bool take_first =
                later_merges_.empty() || (first != first_merges_.cend() && *first < later_merges_[0]);
            const std::uint64_t merge = take_first ? *first++ : pop_later_merge();
            const auto symbol = static_cast<Offset>(merge);
            if (merge == priority(symbol)) merge_with_next(symbol);  // else one of the two has changed since
        }
    }

    std::uint64_t pop_later_merge() {
        std::pop_heap(later_merges_.begin(), later_merges_.end(), std::greater<>());
        const std::uint64_t merge = later_merges_.back();
        later_merges_.pop_back();
        return merge;
    }

    void merge_with_next(Offset symbol) {
        const Offset absorbed = next_[symbol];
        ranks_[absorbed] = Vocabulary::unmerged;
        next_[symbol] = next_[absorbed];
        previous_[next_[symbol]] = symbol;
        enqueue_merge(symbol);
        if (symbol > 0) enqueue_merge(previous_[symbol]);
    }

    void enqueue_merge(Offset symbol) {
        if (!find_merge(symbol)) return;
        later_merges_.push_back(priority(symbol));
        std::push_heap(later_merges_.begin(), later_merges_.end(), std::greater<>());
    }

    /// Looks up what `symbol` and the next one make together, and keeps its rank.
    bool find_merge(Offset symbol) {
        ranks_[symbol] = Vocabulary::unmerged;
        const Offset next = next_[symbol];
        if (next >= text_.size() || next_[next] - symbol > vocabulary_.longest_merge()) return false;
        const std::string_view piece = text_.substr(symbol, next_[next] - symbol);
        const std::optional<Token> token = model_.pieces.find(piece);
        if (!token) return false;
        ranks_[symbol] = vocabulary_.rank(*token);
        if (model_.type(*token) == PieceType::unused) splits_[piece] = next - symbol;
        return ranks_[symbol] != Vocabulary::unmerged;
    }

    /// Smaller is sooner: by rank, then from the left.
    [[nodiscard]] std::uint64_t priority(Offset symbol) const { return std::uint64_t{ranks_[symbol]} << 32 | symbol; }

    void emit(std::string_view piece, std::vector<Token>& tokens) {
        if (!splits_.empty()) return emit_split(piece, tokens);
        emit_whole(piece, tokens);
    }

    /// Takes unused pieces apart into what they were merged from, until none is left.
    void emit_split(std::string_view piece, std::vector<Token>& tokens) {
        std::vector<std::string_view> parts{piece};
        while (!parts.empty()) {
            const std::string_view part = parts.back();
            parts.pop_back();
            if (const auto split = splits_.find(part); split != splits_.end()) {
                parts.push_back(part.substr(split->second));
                parts.push_back(part.substr(0, split->second));
            } else {
                emit_whole(part, tokens);
            }
        }
    }

    void emit_whole(std::string_view piece, std::vector<Token>& tokens) const {
        const std::optional<Token> token = model_.pieces.find(piece);
        const PieceType type = token ? model_.type(*token) : PieceType::unknown;
        if (type == PieceType::normal || type == PieceType::user_defined) {
            tokens.push_back(*token);
        } else if (model_.byte_fallback) {
            for (const char byte : piece) tokens.push_back(model_.byte_tokens[static_cast<unsigned char>(byte)]);
        } else if (tokens.empty() || tokens.back() != model_.unknown) {  // a run of unknown characters is one token
            tokens.push_back(model_.unknown);
        }
    }

    const Vocabulary& vocabulary_;
    const SentencePieceModel& model_;
    std::string_view text_;
    std::vector<Offset> previous_;                    // of each symbol
    std::vector<Offset> next_;                        // of each symbol; the last one's is the end of the text
    std::vector<std::uint32_t> ranks_;                // of the merge of each symbol with the next
    std::vector<std::uint64_t> first_merges_;         // priorities, the soonest first
    std::vector<std::uint64_t> later_merges_;         // priorities, a heap
    std::map<std::string_view, std::size_t> splits_;  // bytes of the left part of each unused piece
};

}  // namespace mistral

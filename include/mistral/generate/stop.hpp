#pragma once

#include <mistral/base/error.hpp>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace mistral {

/// Why a generation ended.
enum class StopReason {
    none,          ///< it has not: more tokens would follow
    max_tokens,    ///< as many tokens were generated as were asked for
    stop_token,    ///< the model ended its text, or sampled another of the stop tokens
    stop_string,   ///< the text reached one of the stop strings
    cancelled,     ///< the caller's stop token or callback asked for it
    context_full,  ///< a layer without a window has no room for another position
};

/// The reason as one word for logs and protocols: "max_tokens", "stop_token" and so on.
[[nodiscard]] constexpr std::string_view name(StopReason reason) {
    switch (reason) {
        case StopReason::none:
            return "none";
        case StopReason::max_tokens:
            return "max_tokens";
        case StopReason::stop_token:
            return "stop_token";
        case StopReason::stop_string:
            return "stop_string";
        case StopReason::cancelled:
            return "cancelled";
        case StopReason::context_full:
            return "context_full";
    }
    return "unknown";
}

/// Calls a callback that returns nothing, or whether to go on. Returns whether to go on.
template <class Callback, class... Arguments>
bool goes_on(Callback& callback, Arguments&&... arguments) {
    if constexpr (std::is_void_v<std::invoke_result_t<Callback&, Arguments...>>) {
        std::invoke(callback, std::forward<Arguments>(arguments)...);
        return true;
    } else {
        return static_cast<bool>(std::invoke(callback, std::forward<Arguments>(arguments)...));
    }
}

/// Looks for stop strings in text that arrives in pieces, and lets through only what can no longer belong to one. The
/// string that is complete first ends the text; of those that are complete at the same byte, the longest. The result
/// does not depend on where the pieces end, and whole characters in give whole characters out.
class StopStrings {
  public:
    /// Throws Error for an empty stop string and for one that starts inside a UTF-8 character.
    explicit StopStrings(std::vector<std::string> strings = {}) {
        for (std::size_t i = 0; i < strings.size(); ++i) {
            require(!strings[i].empty(), "stop_strings[", i, "] is empty, expected some text");
            require((static_cast<unsigned char>(strings[i].front()) & 0xC0) != 0x80, "stop_strings[", i,
                    "] starts inside a UTF-8 character");
            searches_.emplace_back(std::move(strings[i]));
        }
    }

    /// Takes the next piece and returns what may be shown of the text so far and was not yet: nothing that follows the
    /// start of a stop string, nor what may turn out to be one.
    [[nodiscard]] std::string push(std::string_view piece) {
        if (found_) return {};
        held_ += piece;
        for (std::size_t end = held_.size() - piece.size(); end < held_.size(); ++end) {
            const std::size_t matched = advance(held_[end]);
            if (matched > 0) return finish_at(end + 1 - matched);
        }
        std::size_t possible = 0;
        for (const Search& search : searches_) possible = std::max(possible, search.matched());
        return release(held_.size() - possible);
    }

    /// The text ended: returns what was held back for nothing.
    [[nodiscard]] std::string finish() { return release(held_.size()); }

    /// Whether a stop string has been reached.
    [[nodiscard]] bool found() const { return found_; }

  private:
    /// One string's search by Knuth, Morris and Pratt, which reads every byte once.
    class Search {
      public:
        explicit Search(std::string text) : text_(std::move(text)), fallback_(text_.size() + 1, 0) {
            for (std::size_t i = 1, length = 0; i < text_.size(); ++i) {
                while (length > 0 && text_[i] != text_[length]) length = fallback_[length];
                if (text_[i] == text_[length]) ++length;
                fallback_[i + 1] = length;
            }
        }

        /// Bytes of the string that the text so far ends with.
        [[nodiscard]] std::size_t matched() const { return matched_; }
        [[nodiscard]] bool complete() const { return matched_ == text_.size(); }

        void advance(char byte) {
            while (matched_ > 0 && text_[matched_] != byte) matched_ = fallback_[matched_];
            if (text_[matched_] == byte) ++matched_;
        }

      private:
        std::string text_;
        std::vector<std::size_t> fallback_;  // of n matched bytes: the next shorter match that they contain
        std::size_t matched_ = 0;
    };

    /// Feeds one byte to all searches; returns the length of the longest string that it completes, or 0.
    std::size_t advance(char byte) {
        std::size_t longest = 0;
        for (Search& search : searches_) {
            search.advance(byte);
            if (search.complete()) longest = std::max(longest, search.matched());
        }
        return longest;
    }

    std::string finish_at(std::size_t size) {
        found_ = true;
        held_.resize(size);
        return release(size);
    }

    std::string release(std::size_t size) {
        std::string text = held_.substr(0, size);
        held_.erase(0, size);
        return text;
    }

    std::vector<Search> searches_;
    std::string held_;
    bool found_ = false;
};

}  // namespace mistral

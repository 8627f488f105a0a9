#pragma once

#include "block.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <optional>

namespace emulation {

/// Numbers of threads that can go on, from which one is taken: the first, the last, or any.
class ReadySet {
  public:
    void add(unsigned thread) { words_[thread / 64] |= std::uint64_t(1) << thread % 64; }
    void clear() { words_ = {}; }

    [[nodiscard]] std::optional<unsigned> take_first() { return take_first_from(0); }

    [[nodiscard]] std::optional<unsigned> take_last() {
        for (std::size_t word = words_.size(); word-- > 0;)
            if (words_[word] != 0) return take(word, 63 - unsigned(std::countl_zero(words_[word])));
        return std::nullopt;
    }

    /// The first from `start` on, or else the first.
    [[nodiscard]] std::optional<unsigned> take_around(unsigned start) {
        const auto found = take_first_from(start);
        return found ? found : take_first_from(0);
    }

  private:
    [[nodiscard]] std::optional<unsigned> take_first_from(unsigned start) {
        std::uint64_t hidden = (std::uint64_t(1) << start % 64) - 1;
        for (std::size_t word = start / 64; word < words_.size(); ++word) {
            if (const auto visible = words_[word] & ~hidden; visible != 0)
                return take(word, unsigned(std::countr_zero(visible)));
            hidden = 0;
        }
        return std::nullopt;
    }

    unsigned take(std::size_t word, unsigned bit) {
        words_[word] &= ~(std::uint64_t(1) << bit);
        return unsigned(word) * 64 + bit;
    }

    std::array<std::uint64_t, max_block_threads / 64> words_{};
};

}  // namespace emulation

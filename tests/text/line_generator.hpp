#pragma once

#include <mistral/base/types.hpp>

#include <array>
#include <cstdint>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The generator of tests/data/text/make_tokenizer_goldens.py, number for number.
class LineGenerator {
  public:
    explicit LineGenerator(std::uint64_t seed, std::vector<std::string> fragments = {})
        : state_(seed), fragments_(std::move(fragments)) {}

    /// splitmix64.
    std::uint64_t below(std::uint64_t limit) {
        state_ += 0x9E3779B97F4A7C15;
        std::uint64_t mixed = state_;
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
        return ((mixed ^ (mixed >> 31)) >> 32) % limit;
    }

    std::string line() {
        const std::uint64_t kind = below(8);
        if (kind < 3) return sentence(1 + below(24));
        if (kind == 3) return words(1 + below(12));
        if (kind == 4) return characters(1 + below(40));
        if (kind == 5) return bytes(1 + below(40));
        if (kind == 6) return runs(1 + below(6));
        std::string printable;
        for (std::uint64_t left = 1 + below(80); left > 0; --left) printable += printable_ascii();
        return printable;
    }

    std::vector<mistral::Token> tokens(std::uint64_t first_byte, std::uint64_t vocabulary) {
        std::vector<mistral::Token> tokens;
        for (std::uint64_t left = 1 + below(30); left > 0; --left) {
            const std::uint64_t kind = below(4);
            const std::uint64_t token = kind == 0 ? first_byte + below(256) : below(kind == 1 ? 3 : vocabulary);
            tokens.push_back(static_cast<mistral::Token>(token));
        }
        return tokens;
    }

    /// One fragment per line, in which \xNN is a byte and \\ a backslash.
    static std::vector<std::string> read_fragments(const std::string& path) {
        std::ifstream in(path, std::ios::binary);
        std::vector<std::string> fragments;
        for (std::string line; std::getline(in, line);) {
            std::string fragment;
            for (std::size_t i = 0; i < line.size(); ++i) {
                if (line.compare(i, 2, "\\x") == 0) {
                    fragment += static_cast<char>(std::stoi(line.substr(i + 2, 2), nullptr, 16));
                    i += 3;
                } else {
                    i += line.compare(i, 2, "\\\\") == 0 ? 1 : 0;
                    fragment += line[i];
                }
            }
            fragments.push_back(fragment);
        }
        return fragments;
    }

  private:
    const std::string& fragment() { return fragments_[below(fragments_.size())]; }
    char printable_ascii() { return static_cast<char>(0x20 + below(95)); }

    std::string sentence(std::uint64_t count) {
        constexpr std::array<std::string_view, 6> joints{"", " ", " ", " ", "  ", "\n"};
        std::string line = fragment();
        for (; count > 0; --count) {
            line += joints[below(joints.size())];
            line += fragment();
        }
        return line;
    }

    std::string words(std::uint64_t count) {
        std::string line;
        for (; count > 0; --count) line += fragment();
        return line;
    }

    std::string characters(std::uint64_t count) {
        using Range = std::pair<std::uint32_t, std::uint32_t>;
        constexpr std::array<Range, 23> ranges{
            {{0x20, 95},    {0x00, 160},    {0xA0, 96},     {0x100, 384},   {0x300, 112},    {0x370, 144},
             {0x400, 256},  {0x590, 112},   {0x600, 256},   {0x900, 128},   {0xE00, 128},    {0x1E00, 256},
             {0x2000, 112}, {0x2190, 112},  {0x2500, 160},  {0x3040, 192},  {0x4E00, 20992}, {0xAC00, 11172},
             {0xFF00, 240}, {0x1F300, 768}, {0x20000, 256}, {0xE000, 8192}, {0x10000, 65536}}};
        std::string line;
        Range range = ranges[below(ranges.size())];
        for (; count > 0; --count) {
            if (below(8) == 0) range = ranges[below(ranges.size())];
            append_utf8(line, range.first + static_cast<std::uint32_t>(below(range.second)));
        }
        return line;
    }

    std::string bytes(std::uint64_t count) {
        std::string line;
        for (; count > 0; --count) line += below(3) == 0 ? static_cast<char>(below(256)) : printable_ascii();
        return line;
    }

    std::string runs(std::uint64_t count) {
        std::string line;
        for (; count > 0; --count) {
            if (below(2) == 0) {
                line.append(below(100), ' ');
            } else {
                const std::string& repeated = fragment();
                for (std::uint64_t left = below(20); left > 0; --left) line += repeated;
            }
            line += fragment();
        }
        return line;
    }

    static void append_utf8(std::string& text, std::uint32_t c) {
        const auto put = [&](std::uint32_t byte) { text += static_cast<char>(byte); };
        if (c < 0x80) return put(c);
        if (c < 0x800) return put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
        if (c < 0x10000) return put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
        put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
    }

    std::uint64_t state_;
    std::vector<std::string> fragments_;
};

/// FNV-1a with 64 bits, as the script has it.
class BlockHash {
  public:
    void add(std::string_view data) {
        for (const char c : data) value_ = (value_ ^ static_cast<unsigned char>(c)) * 0x100000001B3;
    }
    void add_tokens(std::span<const mistral::Token> tokens) {
        for (const mistral::Token token : tokens) add_number(static_cast<std::uint32_t>(token));
        add_number(static_cast<std::uint32_t>(tokens.size()));
    }
    void add_text(std::string_view text) {
        add(text);
        add("\xFF");
    }
    [[nodiscard]] std::string hex() const {
        std::string digits;
        for (int shift = 60; shift >= 0; shift -= 4) digits += "0123456789abcdef"[value_ >> shift & 15];
        return digits;
    }

  private:
    void add_number(std::uint32_t number) {
        for (int i = 0; i < 4; ++i, number >>= 8) add(std::string(1, static_cast<char>(number & 0xFF)));
    }

    std::uint64_t value_ = 0xCBF29CE484222325;
};

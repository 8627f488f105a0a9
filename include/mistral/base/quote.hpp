#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace mistral {

/// Text from outside as a message may hold it: everything but printable ASCII as \xNN, cut after `limit` bytes.
[[nodiscard]] inline std::string escape(std::string_view text, std::size_t limit = 80) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string out;
    for (const char c : text.substr(0, limit)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte < 0x7f)
            out += c;
        else
            out.append("\\x").append(1, digits[byte / 16]).append(1, digits[byte % 16]);
    }
    return text.size() > limit ? out + "..." : out;
}

/// The same between quotation marks.
[[nodiscard]] inline std::string quote(std::string_view text, std::size_t limit = 80) {
    return '"' + escape(text, limit) + '"';
}

/// A path as UTF-8, whatever the platform's own encoding.
[[nodiscard]] inline std::string utf8(const std::filesystem::path& path) {
    const std::u8string text = path.u8string();
    return {text.begin(), text.end()};
}

}  // namespace mistral

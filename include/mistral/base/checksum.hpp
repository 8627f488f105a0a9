#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mistral {

/// The 64-bit FNV-1a hash (http://www.isthe.com/chongo/tech/comp/fnv/) of bytes that come piece by piece. It notices
/// accidents, single changed bytes always, and is no protection from forgers.
class Checksum {
  public:
    void add(std::span<const std::byte> bytes) {
        for (const std::byte byte : bytes) value_ = (value_ ^ static_cast<std::uint64_t>(byte)) * prime;
    }

    [[nodiscard]] std::uint64_t value() const { return value_; }

  private:
    static constexpr std::uint64_t prime = 0x100000001B3;

    std::uint64_t value_ = 0xCBF29CE484222325;
};

}  // namespace mistral

#pragma once

#include <cstdint>

// What the library's header of this name wraps, on the processor.
namespace mistral::cuda {

inline unsigned permute_bytes(unsigned x, unsigned y, unsigned selector) {
    const std::uint64_t bytes = std::uint64_t(y) << 32 | x;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned nibble = selector >> 4 * i;
        unsigned byte = unsigned(bytes >> 8 * (nibble & 7)) & 0xff;
        if ((nibble & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
        result |= byte << 8 * i;
    }
    return result;
}

}  // namespace mistral::cuda

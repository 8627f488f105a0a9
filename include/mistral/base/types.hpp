#pragma once

#include <cstdint>
#include <limits>

namespace mistral {

/// Counts, sizes and positions. Signed, so that `position - window` means what it says.
using Index = std::int64_t;

/// One entry of a vocabulary.
using Token = std::int32_t;

}  // namespace mistral

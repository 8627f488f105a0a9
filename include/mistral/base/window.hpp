#pragma once

#include <mistral/base/types.hpp>

#include <algorithm>
#include <limits>

namespace mistral {

/// The window of a layer that sees every position before it.
inline constexpr Index no_window = std::numeric_limits<Index>::max();

/// The attention mask, in the one place that states it: the query at position i sees the keys j with
/// i - window < j <= i, which are `window` keys, its own included (Mistral 7B, arXiv:2310.06825, section 2).
struct Window {
    Index size = no_window;

    /// The first position that the query at `position` sees.
    [[nodiscard]] constexpr Index first_visible(Index position) const {
        return std::max<Index>(0, position - size + 1);
    }

    /// Whether the query at `query` sees the key at `key`.
    [[nodiscard]] constexpr bool sees(Index query, Index key) const {
        return key <= query && key >= first_visible(query);
    }
};

}  // namespace mistral

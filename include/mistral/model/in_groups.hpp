#pragma once

#include <mistral/base/types.hpp>
#include <mistral/device/device.hpp>

#include <array>
#include <cstddef>
#include <span>

namespace mistral {

/// Calls body(runs, first_row, rows) for all runs that for_each(visit) visits, in their order, as many at once as a
/// device's verb takes. Run is TokenRun or CachedRun.
template <class Run, class ForEach, class Body>
void in_groups(const ForEach& for_each, Body&& body) {
    std::array<Run, most_sequences> runs;
    std::size_t count = 0;
    Index first = 0, rows = 0;
    const auto flush = [&] {
        if (count > 0) body(std::span<const Run>(runs.data(), count), first, rows);
        first += rows;
        rows = 0;
        count = 0;
    };
    for_each([&](const Run& run) {
        if (count == runs.size()) flush();
        runs[count++] = run;
        rows += run.tokens;
    });
    flush();
}

}  // namespace mistral

#pragma once

#include <mistral/base/types.hpp>
#include <mistral/device/device.hpp>

#include <cuda_runtime.h>

#include <span>

namespace mistral::cuda {

/// Which rows of a pass are whose, and where these stand.
struct RowsOfRuns {
    const Index* positions = nullptr;  // [count]
    int count = 0;
    int first_rows[most_sequences + 1];  // of each run; then the number of all rows

    template <class Run>
    RowsOfRuns(std::span<const Run> runs, const Index* positions_)
        : positions(positions_), count(static_cast<int>(runs.size())), first_rows{} {
        for (int i = 0; i < count; ++i)
            first_rows[i + 1] = first_rows[i] + static_cast<int>(runs[static_cast<std::size_t>(i)].tokens);
    }

    [[nodiscard]] __device__ int run_of(int row) const {
        int run = 0;
        while (first_rows[run + 1] <= row) ++run;
        return run;
    }
    [[nodiscard]] __device__ Index position_of(int row, int run) const {
        return positions[run] + (row - first_rows[run]);
    }
};

}  // namespace mistral::cuda

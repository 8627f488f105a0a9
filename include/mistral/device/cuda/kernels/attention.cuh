#pragma once

#include <mistral/base/error.hpp>
#include <mistral/device/cuda/attention_shapes.hpp>
#include <mistral/device/cuda/kernels.hpp>
#include <mistral/device/cuda/kernels/attention_ranges.cuh>
#include <mistral/device/cuda/kernels/attention_tiles.cuh>

#include <algorithm>
#include <cstddef>
#include <span>

namespace mistral::cuda {

template <class C>
Index attention_scratch(std::span<const CachedRun<C>> runs, const Shape& shape) {
    const RangeBlocks blocks{sizeof(C), shape.head_dim};
    Index rows = 0, ranges = 0;
    for (const CachedRun<C>& run : runs) {
        rows += run.tokens;
        ranges = std::max(ranges, blocks.most_ranges(run.tokens, run.store.capacity, shape.window));
    }
    return blocks.scratch_bytes(std::min(rows, RangeBlocks::rows), shape.query_heads, ranges);
}

template <class C>
void attend(cudaStream_t stream, const Attention<C>& attention, std::byte* scratch) {
    const Shape& shape = attention.shape;
    require(shape.head_dim <= longest_head, "head_dim is ", shape.head_dim, ", the GPU's attention takes ",
            longest_head, " at most");
    const bool aligned = rows_are_aligned(attention);
    RangeLaunches<C> launches(stream, attention, aligned, reinterpret_cast<float*>(scratch));
    int row = 0;
    for (std::size_t i = 0; i < attention.runs.size(); ++i) {
        const CachedRun<C>& run = attention.runs[i];
        const RunPart<C> whole{.cached_keys = run.store.keys,
                               .cached_values = run.store.values,
                               .capacity = run.store.capacity,
                               .run = static_cast<int>(i),
                               .row = row,
                               .tokens = static_cast<int>(run.tokens)};
        row += whole.tokens;
        if constexpr (TileBlocks::has_kernel<C>)
            if (aligned && TileBlocks::takes(shape.head_dim) && run.tokens > RangeBlocks::tokens) {
                attend_tiles(stream, attention, whole);
                continue;
            }
        launches.add(whole);
    }
    launches.run();
}

}  // namespace mistral::cuda

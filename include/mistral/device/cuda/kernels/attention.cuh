#pragma once

#include <mistral/base/error.hpp>
#include <mistral/device/cuda/attention_shapes.hpp>
#include <mistral/device/cuda/kernels.hpp>
#include <mistral/device/cuda/kernels/attention_ranges.cuh>
#include <mistral/device/cuda/kernels/attention_tiles.cuh>

#include <cstddef>

namespace mistral::cuda {

template <class C>
Index attention_scratch(Index tokens, Index capacity, const Shape& shape) {
    return RangeBlocks{sizeof(C), shape.head_dim}.scratch_bytes(tokens, capacity, shape);
}

template <class C>
void attend(cudaStream_t stream, const Attention<C>& attention, std::byte* scratch) {
    const Index head_dim = attention.shape.head_dim;
    require(head_dim <= longest_head, "head_dim is ", head_dim, ", the GPU's attention takes ", longest_head,
            " at most");
    if constexpr (TileBlocks::has_kernel<C>)
        if (attention.queries.rows() > RangeBlocks::tokens && TileBlocks::takes(head_dim) &&
            rows_are_aligned(attention))
            return attend_tiles(stream, attention);
    attend_ranges(stream, attention, reinterpret_cast<float*>(scratch));
}

}  // namespace mistral::cuda

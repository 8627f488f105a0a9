#pragma once

#include <mistral/base/window.hpp>
#include <mistral/device/cuda/kernels.hpp>
#include <mistral/scalar/scalar.hpp>

#include <cuda_runtime.h>

#include <cmath>
#include <limits>

namespace mistral::cuda {

/// An Attention as kernels read it, without its runs.
template <class C>
struct AttentionArguments {
    explicit AttentionArguments(const Attention<C>& attention)
        : queries(attention.queries.data()),
          query_stride(attention.queries.stride()),
          positions(attention.positions),
          keys(attention.keys.data()),
          values(attention.values.data()),
          key_stride(attention.keys.stride()),
          value_stride(attention.values.stride()),
          out(attention.out.data()),
          out_stride(attention.out.stride()),
          window{attention.shape.window},
          group(static_cast<int>(attention.shape.group())),
          head_dim(static_cast<int>(attention.shape.head_dim)),
          scale(static_cast<float>(1 / (std::sqrt(static_cast<double>(head_dim)) * std::log(2.0)))) {}

    const float* queries;
    Index query_stride;
    const Index* positions;
    const C* keys;
    const C* values;
    Index key_stride;
    Index value_stride;
    float* out;
    Index out_stride;
    Window window;
    int group;
    int head_dim;
    float scale;  ///< of scores whose softmax is in powers of two: log2(e) / sqrt(head_dim)
};

/// Consecutive tokens of a run, with its cache, as kernels read them.
template <class C>
struct RunPart {
    const C* cached_keys = nullptr;
    const C* cached_values = nullptr;
    Index capacity = 0;
    int run = 0;              ///< whose position this is
    int row = 0;              ///< of the run's first token in the matrices
    int first_token = 0;      ///< of the part, counted from the run's first
    int tokens = 0;           ///< of the part
    int first_in_launch = 0;  ///< the part's first token, among those of all parts of a launch
};

/// The score of a key that a query does not see, and the maximum of none.
[[nodiscard]] __device__ inline float no_score() {
    return -std::numeric_limits<float>::infinity();
}

/// The keys of one head at consecutive positions, or its values, as far as queries see them. Most often they lie in
/// memory as they do here, and are found by one multiplication.
template <class C>
struct VisibleRows {
    int head_dim;
    Index capacity;
    const C* cached;    // of the head, [capacity, head_dim]
    const C* own;       // of the head, [tokens of the run, head_dim]
    Index own_stride;   // between rows of the run
    Index next_slot;    // where the run's first row will be in the ring
    Index first_token;  // row 0, counted from the run's first one
    int first;          // visible row
    int last;           // visible row, at least the first
    bool consecutive;   // whether all of them are in the run, or lie in the ring before its end
    Index stride;       // then
    const C* start;     // row `first`

    __device__ VisibleRows(int head_dim_, Index capacity_, const C* cached_, const C* own_, Index stride_,
                           Index next_slot_, Index first_token_, int first_, int last_)
        : head_dim(head_dim_),
          capacity(capacity_),
          cached(cached_),
          own(own_),
          own_stride(stride_),
          next_slot(next_slot_),
          first_token(first_token_),
          first(first_),
          last(last_),
          consecutive(first_token + first >= 0 || (first_token + last < 0 && slot(first) <= slot(last))),
          stride(first_token + first >= 0 ? own_stride : head_dim),
          start(find(first)) {}

    /// Calls copy with each of `count` rows that lie `step` apart, the first of them `row`, and with where it lies. In
    /// place of one that no query sees stands one that some do: what lies in its own memory may be no numbers, which
    /// a weight of zero would not remove.
    template <class Copy>
    __device__ void for_each(int row, int step, int count, Copy copy) const {
        if (consecutive) {
#pragma unroll
            for (int i = 0; i < count; ++i) copy(row + i * step, start + (visible(row + i * step) - first) * stride);
        } else {
#pragma unroll 1
            for (int i = 0; i < count; ++i) copy(row + i * step, find(visible(row + i * step)));
        }
    }

  private:
    [[nodiscard]] __device__ int visible(int row) const {
        return row < first ? first : row > last ? last : row;
    }
    [[nodiscard]] __device__ const C* find(int row) const {
        const Index token = first_token + row;
        return token >= 0 ? own + token * own_stride : cached + slot(row) * head_dim;
    }
    /// Of a row that is in the ring.
    [[nodiscard]] __device__ Index slot(int row) const {
        const Index relative = next_slot + first_token + row;
        return relative < 0 ? relative + capacity : relative;
    }
};

/// Where one key/value head has the rows of each position, and which of them the run's queries see.
template <class C>
class AttentionHead {
  public:
    __device__ AttentionHead(const AttentionArguments<C>& arguments, const RunPart<C>& part, Index kv_head)
        : arguments_(arguments),
          part_(part),
          position_(arguments.positions[part.run]),
          next_slot_(position_ % part.capacity),
          first_slot_(kv_head * part.capacity),
          column_(kv_head * arguments.head_dim) {}

    /// Positions of the first and the last key that the run's token of this number sees.
    [[nodiscard]] __device__ Index first_visible(Index token) const {
        const Index first = arguments_.window.first_visible(position_ + token);
        const Index resident = position_ - part_.capacity;
        return first > resident ? first : resident;
    }
    [[nodiscard]] __device__ Index last_visible(Index token) const { return position_ + token; }

    /// The rows of `count` positions from `position` on, as far as they are from `first` to `last`, which some are.
    [[nodiscard]] __device__ VisibleRows<C> keys(Index position, int count, Index first, Index last) const {
        return rows(part_.cached_keys, arguments_.keys, arguments_.key_stride, position, count, first, last);
    }
    [[nodiscard]] __device__ VisibleRows<C> values(Index position, int count, Index first, Index last) const {
        return rows(part_.cached_values, arguments_.values, arguments_.value_stride, position, count, first, last);
    }

  private:
    [[nodiscard]] __device__ VisibleRows<C> rows(const C* cached, const C* own, Index stride, Index position, int count,
                                                 Index first, Index last) const {
        return VisibleRows<C>(arguments_.head_dim, part_.capacity, cached + first_slot_ * arguments_.head_dim,
                              own + part_.row * stride + column_, stride, next_slot_, position - position_,
                              first < position ? 0 : static_cast<int>(first - position),
                              last < position + count ? static_cast<int>(last - position) : count - 1);
    }

    const AttentionArguments<C>& arguments_;
    const RunPart<C>& part_;
    Index position_;    // of the run's first token
    Index next_slot_;   // where that will be in the ring
    Index first_slot_;  // the head's, among those of all heads
    Index column_;      // the head's, in the rows of the run
};

}  // namespace mistral::cuda

#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/device/cuda/attention_shapes.hpp>
#include <mistral/device/cuda/kernels/attention_head.cuh>
#include <mistral/device/cuda/kernels/attention_merge.cuh>
#include <mistral/device/cuda/kernels/launch.cuh>
#include <mistral/device/cuda/kernels/reduce.cuh>

#include <cuda_pipeline_primitives.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

/// The attention of a few tokens, for any head_dim and scalar, at the speed of memory. Each block loads its range of
/// keys and values once, whole, for all queries; a second kernel merges what ranges come to in their order. A query's
/// arithmetic depends on its position alone: chunks of any size give the same bits.
namespace mistral::cuda {

/// A part of a row, loaded by one instruction.
template <class C, int bytes>
struct alignas(bytes) RowChunk {
    static constexpr int size = bytes / int{sizeof(C)};
    C elements[size];
};

/// One block's work on its range of a part's keys. A fixed head_dim is for rows of whole chunks that lie where chunks
/// can be loaded; in what is compiled for it, addresses cost little.
template <class C, int fixed_head_dim>
class RangeAttention {
  public:
    __device__ RangeAttention(const AttentionArguments<C>& arguments, const RangeLaunch<C>& launch,
                              const RunPart<C>& part, std::byte* shared)
        : arguments_(arguments),
          launch_(launch),
          part_(part),
          head_(arguments, part, blockIdx.y),
          first_key_((head_.first_visible(part.first_token) / keys + blockIdx.x) * keys),
          keys_(shared),
          values_(keys_ + keys * row_stride()),
          queries_(reinterpret_cast<float*>(values_ + keys * row_stride())),
          weights_(queries_ + Blocks::queries * query_floats()),
          sums_(weights_ + Blocks::queries * keys) {}

    __device__ void run() const {
        if (first_key_ > last_visible()) return;
        load();
        const int count = part_.tokens * arguments_.group;
        for (int first = 0; first < count; first += Blocks::queries) {
            load_queries(first, count);
            if (first == 0) __pipeline_wait_prior(1);  // the values may still be under way
            __syncthreads();
            score(first);
            __syncthreads();
            normalise(first, count);
            if (first == 0) __pipeline_wait_prior(0);
            __syncthreads();
            sum_values(first, count);
        }
    }

  private:
    using Blocks = RangeBlocks;
    static constexpr int keys = Blocks{sizeof(C), 0}.keys();
    using Chunk = RowChunk<C, Blocks::chunk_bytes>;
    using Pair = RowChunk<C, 2 * sizeof(C)>;

    [[nodiscard]] __device__ int head_dim() const {
        return fixed_head_dim == Dynamic ? arguments_.head_dim : fixed_head_dim;
    }
    [[nodiscard]] __device__ Blocks blocks() const { return {sizeof(C), head_dim()}; }
    [[nodiscard]] __device__ int row_stride() const { return static_cast<int>(blocks().row_stride()); }
    [[nodiscard]] __device__ int query_floats() const { return static_cast<int>(blocks().query_floats()); }

    static __device__ int thread() { return static_cast<int>(threadIdx.x); }
    [[nodiscard]] __device__ Index last_visible() const {
        return head_.last_visible(part_.first_token + part_.tokens - 1);
    }

    /// The range's rows that any query sees, first all keys, then all values.
    __device__ void load() const {
        const Index first = head_.first_visible(part_.first_token);
        load_rows(keys_, head_.keys(first_key_, keys, first, last_visible()));
        __pipeline_commit();
        load_rows(values_, head_.values(first_key_, keys, first, last_visible()));
        __pipeline_commit();
    }

    __device__ void load_rows(std::byte* to, const VisibleRows<C>& rows) const {
        const int row_threads = static_cast<int>(blocks().row_threads());
        const int row_step = Blocks::threads / row_threads;
        const int chunk = thread() % row_threads;
        if (chunk >= blocks().row_chunks()) return;
        rows.for_each(thread() / row_threads, row_step, divide_up(keys, row_step), [&](int row, const C* source) {
            if (row_step > keys && row >= keys) return;
            load_chunk(to + row * row_stride() + chunk * Blocks::chunk_bytes, source, chunk * Chunk::size);
        });
    }

    __device__ void load_chunk(std::byte* to, const C* row, int first) const {
        if constexpr (fixed_head_dim == Dynamic) {
            if (!launch_.aligned) {
                Chunk chunk;
                for (int i = 0; i < Chunk::size; ++i)
                    chunk.elements[i] = first + i < head_dim() ? row[first + i] : C(0.0f);
                *reinterpret_cast<Chunk*>(to) = chunk;
                return;
            }
        }
        __pipeline_memcpy_async(to, row + first, Blocks::chunk_bytes);
    }

    /// A query is one of the heads that share the key/value head, of one token.
    [[nodiscard]] __device__ Index token_of(int query) const { return part_.first_token + query / arguments_.group; }
    [[nodiscard]] __device__ int head_of(int query) const {
        return static_cast<int>(blockIdx.y) * arguments_.group + query % arguments_.group;
    }

    __device__ void load_queries(int first, int count) const {
#pragma unroll
        for (int q = 0; q < Blocks::queries; ++q) {
            const int query = first + q < count ? first + q : count - 1;
            const float* const row = arguments_.queries + (part_.row + token_of(query)) * arguments_.query_stride +
                                     head_of(query) * head_dim();
            for (int column = thread(); column < query_floats(); column += Blocks::threads)
                queries_[q * query_floats() + column] = column < head_dim() ? arguments_.scale * row[column] : 0.0f;
        }
    }

    /// A thread multiplies one key with some of the queries.
    __device__ void score(int first) const {
        constexpr int queries = Blocks::queries * keys / Blocks::threads;
        const int key = thread() % keys;
        const int first_row = thread() / keys * queries;
        const std::byte* const row = keys_ + key * row_stride();
        float scores[queries] = {};
        for (int column = 0; column < query_floats(); column += Chunk::size) {
            const Chunk chunk = *reinterpret_cast<const Chunk*>(row + column * int{sizeof(C)});
#pragma unroll
            for (int q = 0; q < queries; ++q) {
                const float* const query = queries_ + (first_row + q) * query_floats() + column;
#pragma unroll
                for (int i = 0; i < Chunk::size; i += 4) {
                    const float4 four = *reinterpret_cast<const float4*>(query + i);
                    scores[q] += four.x * static_cast<float>(chunk.elements[i]);
                    scores[q] += four.y * static_cast<float>(chunk.elements[i + 1]);
                    scores[q] += four.z * static_cast<float>(chunk.elements[i + 2]);
                    scores[q] += four.w * static_cast<float>(chunk.elements[i + 3]);
                }
            }
        }
#pragma unroll
        for (int q = 0; q < queries; ++q) {
            const Index token = token_of(first + first_row + q);
            const Index position = first_key_ + key;
            const bool visible = head_.first_visible(token) <= position && position <= head_.last_visible(token);
            weights_[key * Blocks::queries + first_row + q] = visible ? scores[q] : no_score();
        }
    }

    /// A warp turns the scores of one query into weights, relative to their maximum.
    __device__ void normalise(int first, int count) const {
        const int row = thread() / warp_lanes;
        const int lane = thread() % warp_lanes;
        float maximum = no_score();
        for (int key = lane; key < keys; key += warp_lanes)
            maximum = fmaxf(maximum, weights_[key * Blocks::queries + row]);
        maximum = maximum_of_warp(maximum);
        float total = 0;
        for (int key = lane; key < keys; key += warp_lanes) {
            float& weight = weights_[key * Blocks::queries + row];
            weight = weight == no_score() ? 0.0f : exp2f(weight - maximum);
            total += weight;
        }
        total = sum_of_warp(total);
        if (lane == 0 && first + row < count) {
            float* const partial = partial_of(first + row);
            partial[head_dim()] = maximum;
            partial[head_dim() + 1] = total;
        }
    }

    /// A thread sums two columns of some of the values, for all queries; then their sums are summed.
    __device__ void sum_values(int first, int count) const {
        const int pairs = (head_dim() + 1) / 2;
        const int parts = Blocks::threads / pairs;
        const int pair = thread() % pairs;
        const int part = thread() / pairs;
        float sums[Blocks::queries][2] = {};
        if (part < parts) {
            const std::byte* const column = values_ + pair * int{sizeof(Pair)};
#pragma unroll 8
            for (int i = 0; i < keys; i += parts) {
                const int key = i + part;
                if (keys % parts != 0 && key >= keys) break;
                const Pair value = *reinterpret_cast<const Pair*>(column + key * row_stride());
                const float4 weight = *reinterpret_cast<const float4*>(weights_ + key * Blocks::queries);
                const float weights[Blocks::queries] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
                for (int q = 0; q < Blocks::queries; ++q) {
                    sums[q][0] += weights[q] * static_cast<float>(value.elements[0]);
                    sums[q][1] += weights[q] * static_cast<float>(value.elements[1]);
                }
            }
#pragma unroll
            for (int q = 0; q < Blocks::queries; ++q)
                *reinterpret_cast<float2*>(sums_ + 2 * (q * Blocks::threads + thread())) = {sums[q][0], sums[q][1]};
        }
        __syncthreads();
#pragma unroll
        for (int q = 0; q < Blocks::queries; ++q) {
            if (first + q >= count) break;
            float* const partial = partial_of(first + q);
            for (int i = thread(); i < head_dim(); i += Blocks::threads) {
                float sum = 0;
                for (int p = 0; p < parts; ++p) sum += sums_[2 * (q * Blocks::threads + p * pairs) + i];
                partial[i] = sum;
            }
        }
    }

    [[nodiscard]] __device__ float* partial_of(int query) const {
        const Index heads = Index{gridDim.y} * arguments_.group;
        const int token = part_.first_in_launch + query / arguments_.group;
        return launch_.partial(token * heads + head_of(query), blockIdx.x, head_dim());
    }

    const AttentionArguments<C>& arguments_;
    const RangeLaunch<C>& launch_;
    const RunPart<C>& part_;
    AttentionHead<C> head_;
    Index first_key_;
    std::byte* keys_;    // [keys], row_stride() bytes apart
    std::byte* values_;  // likewise
    float* queries_;     // [queries, query_floats()]
    float* weights_;     // [keys, queries]: scores at first
    float* sums_;        // [queries, threads, 2]
};

template <class C, int fixed_head_dim>
__global__ void __launch_bounds__(RangeBlocks::threads, RangeBlocks::per_multiprocessor)
    attend_range(const AttentionArguments<C> arguments, const RangeLaunch<C> launch) {
    let_next_begin();
    wait_for_previous();
    alignas(16) extern __shared__ std::byte dynamic_shared[];
    const RunPart<C> part = launch.parts[blockIdx.z];
    RangeAttention<C, fixed_head_dim>(arguments, launch, part, dynamic_shared).run();
}

/// Whether every row of keys and values is of whole chunks, and begins where a chunk can be loaded.
template <class C>
[[nodiscard]] bool rows_are_aligned(const Attention<C>& attention) {
    constexpr Index bytes = RangeBlocks::chunk_bytes;
    const auto aligned = [](const void* data, Index stride) {
        return reinterpret_cast<std::uintptr_t>(data) % bytes == 0 && stride * Index{sizeof(C)} % bytes == 0;
    };
    return aligned(attention.keys.data(), attention.keys.stride()) &&
           aligned(attention.values.data(), attention.values.stride()) &&
           std::all_of(attention.runs.begin(), attention.runs.end(), [&](const CachedRun<C>& run) {
               return aligned(run.store.keys, run.store.row_size) && aligned(run.store.values, run.store.row_size);
           });
}

/// Puts the attention of runs on a stream, of several in one launch.
template <class C>
class RangeLaunches {
  public:
    RangeLaunches(cudaStream_t stream, const Attention<C>& attention, bool aligned, float* partials)
        : stream_(stream),
          arguments_(attention),
          shape_(attention.shape),
          blocks_{sizeof(C), attention.shape.head_dim} {
        launch_.partials = partials;
        launch_.aligned = aligned;
    }

    /// In parts of so many tokens as a block takes.
    void add(const RunPart<C>& run) {
        constexpr int most = int{RangeBlocks::tokens};
        for (int first = 0; first < run.tokens; first += most) {
            RunPart<C> part = run;
            part.first_token = first;
            part.tokens = std::min(most, run.tokens - first);
            add_part(part);
        }
    }

    /// Launches what has been added.
    void run() {
        if (launch_.count == 0) return;
        launch(launch_.aligned && shape_.head_dim == 128 ? attend_range<C, 128> : attend_range<C, Dynamic>,
               dim3(static_cast<unsigned>(launch_.ranges), static_cast<unsigned>(shape_.kv_heads),
                    static_cast<unsigned>(launch_.count)),
               RangeBlocks::threads, static_cast<std::size_t>(blocks_.shared_bytes()), stream_, arguments_, launch_);
        launch(merge_ranges<C>, static_cast<unsigned>(launch_.tokens * shape_.query_heads), RangeBlocks::threads, 0,
               stream_, arguments_, launch_, static_cast<int>(shape_.query_heads));
        launch_.count = launch_.tokens = launch_.ranges = 0;
    }

  private:
    void add_part(RunPart<C> part) {
        if (launch_.count == int{most_sequences} || launch_.tokens + part.tokens > RangeBlocks::rows) run();
        const Index ranges = blocks_.ranges(part.first_token, part.tokens, part.capacity, shape_.window);
        part.first_in_launch = launch_.tokens;
        launch_.parts[launch_.count++] = part;
        launch_.tokens += part.tokens;
        launch_.ranges = std::max(launch_.ranges, static_cast<int>(ranges));
    }

    cudaStream_t stream_;
    AttentionArguments<C> arguments_;
    Shape shape_;
    RangeBlocks blocks_;
    RangeLaunch<C> launch_;
};

}  // namespace mistral::cuda

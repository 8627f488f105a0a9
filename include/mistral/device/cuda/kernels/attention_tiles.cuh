#pragma once

#include <mistral/device/cuda/attention_shapes.hpp>
#include <mistral/device/cuda/kernels/attention_head.cuh>
#include <mistral/device/cuda/kernels/launch.cuh>
#include <mistral/device/cuda/kernels/tensor_core.cuh>

#include <cuda_pipeline_primitives.h>

#include <cstddef>

/// The attention of many tokens on tensor cores, with online softmax (FlashAttention-2, arXiv:2307.08691). Queries,
/// multiplied by the scale, and weights are rounded to the cache's scalar. Tiles of keys begin at absolute positions
/// that are multiples of their length, and those that a query does not see leave its sums as they are: chunks of any
/// size give the same bits.
namespace mistral::cuda {

/// A matrix [rows, head_dim] of 16 bits each in shared memory. Chunks of 16 bytes lie in an order that depends on the
/// row, so that the same chunk of eight rows lies in eight different groups of banks.
template <int head_dim>
struct SharedTile {
    static constexpr int chunk_bytes = 16;
    static constexpr int row_bytes = head_dim * 2;
    static constexpr int chunks = row_bytes / chunk_bytes;

    std::byte* data;

    [[nodiscard]] static __device__ int offset(int row, int chunk) {
        return row * row_bytes + (chunk ^ row % 8) * chunk_bytes;
    }
    /// So many rows, a multiple of 8, and chunks, an even number, after an offset with a chunk of 0 or 1. Kernels keep
    /// few such offsets in registers, and find the rest by one instruction.
    [[nodiscard]] __device__ std::byte* after(int offset, int rows, int chunks_after) const {
        return data + ((offset ^ chunks_after * chunk_bytes) + rows * row_bytes);
    }
};

/// Positions of the first and the last key that a query sees.
struct alignas(16) VisibleKeys {
    Index first;
    Index last;
};

/// One block's work: a tile of queries over all keys that they see. A warp has 32 queries, as two fragments of 16 rows;
/// a lane has four rows of them, `group` and group + 8 of each fragment. Blocks of the last queries, which see most
/// keys, come first.
template <class C, int head_dim>
class TileAttention {
  public:
    __device__ TileAttention(const AttentionArguments<C>& arguments, const RunPart<C>& run, std::byte* shared)
        : arguments_(arguments),
          first_row_(run.row),
          head_(arguments, run, blockIdx.y),
          first_query_(static_cast<int>(gridDim.x - 1 - blockIdx.x) * Blocks::queries),
          queries_(run.tokens * arguments.group),
          first_token_(first_query_ / arguments.group),
          last_token_(query_of(Blocks::queries - 1) / arguments.group),
          query_tile_{shared},
          key_tile_{shared + Blocks::queries * Tile::row_bytes},
          value_tile_{shared + (Blocks::queries + Blocks::keys) * Tile::row_bytes},
          visible_keys_(reinterpret_cast<VisibleKeys*>(value_tile_.data + Blocks::keys * Tile::row_bytes)),
          query_offset_(Tile::offset(warp_row() + matrix() % 2 * 8 + lane() % 8, matrix() / 2)),
          key_offset_(Tile::offset(matrix() / 2 * 8 + lane() % 8, matrix() % 2)),
          value_offset_(Tile::offset(matrix() % 2 * 8 + lane() % 8, matrix() / 2)) {}

    __device__ void run() {
        const Index first_tile = head_.first_visible(first_token_) / Blocks::keys;
        const Index last_tile = head_.last_visible(last_token_) / Blocks::keys;
        load_keys(first_tile * Blocks::keys);
        load_queries();
        clear();
        for (Index tile = first_tile; tile <= last_tile; ++tile) {
            const Index first_key = tile * Blocks::keys;
            __pipeline_wait_prior(0);
            __syncthreads();  // the keys are there, the last values have been used
            load_values(first_key);
            float scores[fragments][key_octets][4];
            score(scores);
            __pipeline_wait_prior(0);
            __syncthreads();  // the values are there, the keys have been used
            if (!is_seen_by_all(first_key)) mask(scores, first_key);
            unsigned weights[key_octets / 2][fragments][4];
            weigh(scores, weights);
            if (tile < last_tile) load_keys(first_key + Blocks::keys);  // now that scores have left their registers
            add_values(weights);
        }
        store();
    }

  private:
    using Blocks = TileBlocks;
    using Tile = SharedTile<head_dim>;
    static constexpr int fragments = Blocks::queries_per_warp / 16;
    static constexpr int key_octets = Blocks::keys / 8;
    static constexpr int dim_octets = head_dim / 8;

    static __device__ int thread() { return static_cast<int>(threadIdx.x); }
    static __device__ int lane() { return thread() % 32; }
    /// Of the four that a warp loads at a time, the one whose row the lane addresses.
    static __device__ int matrix() { return lane() / 8; }
    static __device__ int warp_row() { return thread() / 32 * Blocks::queries_per_warp; }

    /// Of the tile's query in this row; rows beyond the last query count as that.
    [[nodiscard]] __device__ int query_of(int row) const {
        const int query = first_query_ + row;
        return query < queries_ ? query : queries_ - 1;
    }
    [[nodiscard]] __device__ Index token_of(int query) const { return query / arguments_.group; }
    [[nodiscard]] __device__ Index column_of(int query) const {
        return (static_cast<int>(blockIdx.y) * arguments_.group + query % arguments_.group) * head_dim;
    }

    __device__ void load_queries() const {
        for (int row = thread(); row < Blocks::queries; row += Blocks::threads) {
            const Index token = token_of(query_of(row));
            visible_keys_[row] = {head_.first_visible(token), head_.last_visible(token)};
        }
        constexpr int pairs = head_dim / 2;
        for (int i = thread(); i < Blocks::queries * pairs; i += Blocks::threads) {
            const int row = i / pairs;
            const int pair = i % pairs;
            const int query = query_of(row);
            const float* const elements = arguments_.queries +
                                          (first_row_ + token_of(query)) * arguments_.query_stride + column_of(query) +
                                          2 * pair;
            *reinterpret_cast<unsigned*>(query_tile_.data + Tile::offset(row, pair / 4) + pair % 4 * 4) =
                round_pair<C>(elements[0] * arguments_.scale, elements[1] * arguments_.scale);
        }
    }

    __device__ void load_keys(Index first_key) const {
        load(key_tile_,
             head_.keys(first_key, Blocks::keys, head_.first_visible(first_token_), head_.last_visible(last_token_)));
    }
    __device__ void load_values(Index first_key) const {
        load(value_tile_,
             head_.values(first_key, Blocks::keys, head_.first_visible(first_token_), head_.last_visible(last_token_)));
    }

    __device__ void load(const Tile& tile, const VisibleRows<C>& rows) const {
        constexpr int step = Blocks::threads / Tile::chunks;
        const int chunk = thread() % Tile::chunks;
        rows.for_each(thread() / Tile::chunks, step, Blocks::keys / step, [&](int row, const C* source) {
            __pipeline_memcpy_async(tile.data + Tile::offset(row, chunk), source + chunk * Tile::chunk_bytes / 2,
                                    Tile::chunk_bytes);
        });
        __pipeline_commit();
    }

    __device__ void clear() {
#pragma unroll
        for (int f = 0; f < fragments; ++f) {
#pragma unroll
            for (int d = 0; d < dim_octets; ++d)
#pragma unroll
                for (int i = 0; i < 4; ++i) sums_[f][d][i] = 0;
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                maxima_[f][h] = no_score();
                totals_[f][h] = 0;
            }
        }
    }

    __device__ void score(float (&scores)[fragments][key_octets][4]) const {
#pragma unroll
        for (int f = 0; f < fragments; ++f)
#pragma unroll
            for (int k = 0; k < key_octets; ++k)
#pragma unroll
                for (int i = 0; i < 4; ++i) scores[f][k][i] = 0;
#pragma unroll 4
        for (int d = 0; d < dim_octets; d += 2) {
            unsigned queries[fragments][4];
#pragma unroll
            for (int f = 0; f < fragments; ++f) load_matrices(queries[f], query_tile_.after(query_offset_, f * 16, d));
#pragma unroll
            for (int k = 0; k < key_octets; k += 2) {
                unsigned keys[4];
                load_matrices(keys, key_tile_.after(key_offset_, k * 8, d));
#pragma unroll
                for (int f = 0; f < fragments; ++f) {
                    multiply_add<C>(scores[f][k], queries[f], keys[0], keys[1]);
                    multiply_add<C>(scores[f][k + 1], queries[f], keys[2], keys[3]);
                }
            }
        }
    }

    [[nodiscard]] __device__ bool is_seen_by_all(Index first_key) const {
        return head_.first_visible(last_token_) <= first_key &&
               first_key + Blocks::keys - 1 <= head_.last_visible(first_token_);
    }

    __device__ void mask(float (&scores)[fragments][key_octets][4], Index first_key) const {
#pragma unroll
        for (int f = 0; f < fragments; ++f)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const VisibleKeys visible = visible_keys_[warp_row() + f * 16 + h * 8 + lane() / 4];
                const int first = clamped(visible.first - first_key);
                const int last = clamped(visible.last - first_key);
#pragma unroll
                for (int k = 0; k < key_octets; ++k)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        const int key = k * 8 + lane() % 4 * 2 + i;
                        if (key < first || key > last) scores[f][k][2 * h + i] = no_score();
                    }
            }
    }
    static __device__ int clamped(Index key) {
        return key < 0 ? -1 : key > Blocks::keys ? Blocks::keys : static_cast<int>(key);
    }

    /// Turns scores into weights, as fragments of 16 keys each: where a lane's sums lie in the product of queries and
    /// keys is where it has the left factor of the next product.
    __device__ void weigh(float (&scores)[fragments][key_octets][4],
                          unsigned (&weights)[key_octets / 2][fragments][4]) {
#pragma unroll
        for (int f = 0; f < fragments; ++f) {
#pragma unroll
            for (int h = 0; h < 2; ++h) weigh_row(scores[f], f, h);
#pragma unroll
            for (int k = 0; k < key_octets; ++k) {
                weights[k / 2][f][k % 2 * 2] = round_pair<C>(scores[f][k][0], scores[f][k][1]);
                weights[k / 2][f][k % 2 * 2 + 1] = round_pair<C>(scores[f][k][2], scores[f][k][3]);
            }
        }
    }

    /// Turns the scores in one of the lane's rows into weights relative to the largest so far, and scales the sums to
    /// it.
    __device__ void weigh_row(float (&scores)[key_octets][4], int f, int h) {
        float maximum = maxima_[f][h];
#pragma unroll
        for (int k = 0; k < key_octets; ++k) maximum = fmaxf(maximum, fmaxf(scores[k][2 * h], scores[k][2 * h + 1]));
        maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 1));
        maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 2));
        const float base = maximum == no_score() ? 0.0f : maximum;  // before the first key that the query sees
        const float scale = fast_exp2(maxima_[f][h] - base);
        float total = 0;
#pragma unroll
        for (int k = 0; k < key_octets; ++k)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float& score = scores[k][2 * h + i];
                score = fast_exp2(score - base);
                total += score;
            }
        maxima_[f][h] = maximum;
        totals_[f][h] = totals_[f][h] * scale + total;
        if (!__any_sync(~0u, scale != 1.0f)) return;  // most often, after the first tiles
#pragma unroll
        for (int d = 0; d < dim_octets; ++d) {
            sums_[f][d][2 * h] *= scale;
            sums_[f][d][2 * h + 1] *= scale;
        }
    }

    __device__ void add_values(const unsigned (&weights)[key_octets / 2][fragments][4]) {
#pragma unroll
        for (int k = 0; k < key_octets / 2; ++k)
#pragma unroll
            for (int d = 0; d < dim_octets; d += 2) {
                unsigned values[4];
                load_transposed_matrices(values, value_tile_.after(value_offset_, k * 16, d));
#pragma unroll
                for (int f = 0; f < fragments; ++f) {
                    multiply_add<C>(sums_[f][d], weights[k][f], values[0], values[1]);
                    multiply_add<C>(sums_[f][d + 1], weights[k][f], values[2], values[3]);
                }
            }
    }

    __device__ void store() const {
#pragma unroll
        for (int f = 0; f < fragments; ++f)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float total = totals_[f][h];
                total += __shfl_xor_sync(~0u, total, 1);
                total += __shfl_xor_sync(~0u, total, 2);
                const float normaliser = 1 / total;
                const int query = first_query_ + warp_row() + f * 16 + h * 8 + lane() / 4;
                if (query >= queries_) continue;
                float* const out =
                    arguments_.out + (first_row_ + token_of(query)) * arguments_.out_stride + column_of(query);
#pragma unroll
                for (int d = 0; d < dim_octets; ++d)
#pragma unroll
                    for (int i = 0; i < 2; ++i) out[d * 8 + lane() % 4 * 2 + i] = sums_[f][d][2 * h + i] * normaliser;
            }
    }

    const AttentionArguments<C>& arguments_;
    int first_row_;  // of the run
    AttentionHead<C> head_;
    int first_query_;  // of all that share the key/value head
    int queries_;
    int first_token_;
    int last_token_;
    Tile query_tile_;
    Tile key_tile_;
    Tile value_tile_;
    VisibleKeys* visible_keys_;  // of each query: in registers they would take those of sums
    int query_offset_;           // of the lane's row in the first fragment that it loads of a tile
    int key_offset_;
    int value_offset_;
    float sums_[fragments][dim_octets][4];
    float maxima_[fragments][2];
    float totals_[fragments][2];  // over the lane's own keys
};

template <class C, int head_dim>
__global__ void __launch_bounds__(TileBlocks::threads)
    attend_tile(const AttentionArguments<C> arguments, const RunPart<C> run) {
    let_next_begin();
    wait_for_previous();
    alignas(16) extern __shared__ std::byte dynamic_shared[];
    TileAttention<C, head_dim>(arguments, run, dynamic_shared).run();
}

template <class C>
void attend_tiles(cudaStream_t stream, const Attention<C>& attention, const RunPart<C>& run) {
    const Shape& shape = attention.shape;
    const TileBlocks blocks{shape.head_dim};
    const Index tiles = TileBlocks::tiles(run.tokens, shape.group());
    launch(shape.head_dim == 64 ? attend_tile<C, 64> : attend_tile<C, 128>,
           dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(shape.kv_heads)), TileBlocks::threads,
           static_cast<std::size_t>(blocks.shared_bytes()), stream, AttentionArguments<C>(attention), run);
}

}  // namespace mistral::cuda

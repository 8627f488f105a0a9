#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/device.hpp>
#include <mistral/scalar/cached_row.hpp>
#include <mistral/scalar/quantization.hpp>
#include <mistral/scalar/types.hpp>

#include <cuda_runtime_api.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

/// What runs on the GPU, as functions that put work on a stream and return. nvcc compiles them once, in
/// mistralCudaKernels.cu, for the scalars named here; programs that call them are compiled by any C++20 compiler. All
/// matrices lie in the device's memory, positions that are pointers too: kernels read them when they run, so that
/// a recorded pass can be replayed at the next position. Shapes are those of `Device`. Nothing is checked here, and no
/// memory is allocated.
namespace mistral::cuda {

/// For S = float, half, bfloat16. Tokens [tokens] in the device's memory.
template <class S>
void embed(cudaStream_t, const Token* tokens, MatrixView<const S> table, MatrixView<float> out);

/// weight [hidden_size]; out may be x.
void rms_norm(cudaStream_t, MatrixView<const float> x, const float* weight, float eps, MatrixView<float> out);

/// Up to so many tokens, `multiply` reads the weights once for all of them, at the speed of memory. It takes more, at a
/// speed that falls behind that of a matrix product on tensor cores.
inline constexpr Index few_tokens = 16;

/// Weights [outputs, inputs] with the place of their product with an input, [tokens, outputs].
template <class Weights>
struct WeightsFor {
    Weights weights;
    MatrixView<float> out;
};

/// For S = float, half, bfloat16: sums in float of products of the weights with activations that are not rounded, in
/// one launch for up to `most_products` weights. A token gives the same bits in every chunk, whatever else is
/// multiplied, and wherever the matrices lie; fast are rows at multiples of 16 bytes. The weights are read before what
/// comes earlier on the stream is done, which so must not write them; those of Q8 and Q4, below, likewise.
/// `gated`: there are two products of the same shape, gate and up, and silu(gate) * up is what the place of the first
/// gets; the other's is not used.
template <class S>
void multiply(cudaStream_t, MatrixView<const float> x, std::span<const WeightsFor<MatrixView<const S>>> products,
              Update, bool gated = false);

/// Quantised weights [rows, cols] on the GPU, in tiles of 16 bytes, what a thread loads at once: 4 rows of 4 inputs
/// in Q8, of 8 in Q4. What pads rows and inputs to whole tiles and groups has no effect.
template <QuantizedScalar Q>
struct QuantizedView {
    static constexpr Index codes_per_byte = std::same_as<Q, Q8> ? 1 : 2;
    static constexpr Index tile_rows = 4;
    static constexpr Index tile_cols = 4 * codes_per_byte;
    static constexpr Index tile_bytes = 16;

    /// [row_tiles, groups * 64 / tile_cols, tile_rows, 4], at a multiple of 16: in Q8 the level as a signed integer; in
    /// Q4 the index of the level, that of an even input in the lower half of a byte, that of the next in the upper one.
    const std::uint8_t* codes = nullptr;
    const half* scales = nullptr;  ///< [row_tiles, groups, tile_rows], at a multiple of 8
    Index rows = 0;
    Index cols = 0;

    [[nodiscard]] constexpr Index groups() const { return groups_of(cols); }
    [[nodiscard]] constexpr Index row_tiles() const { return divide_up(rows, tile_rows); }
    [[nodiscard]] constexpr Index tiles_of_row() const { return groups() * (group_size / tile_cols); }
    [[nodiscard]] constexpr Index code_bytes() const { return row_tiles() * tiles_of_row() * tile_bytes; }
    [[nodiscard]] constexpr Index scale_count() const { return row_tiles() * groups() * tile_rows; }

    /// The byte with the code of a weight.
    [[nodiscard]] constexpr Index code_byte(Index row, Index col) const {
        const Index tile = row / tile_rows * tiles_of_row() + col / tile_cols;
        return tile * tile_bytes + row % tile_rows * 4 + col % tile_cols / codes_per_byte;
    }
    [[nodiscard]] constexpr Index scale_index(Index row, Index group) const {
        return (row / tile_rows * groups() + group) * tile_rows + row % tile_rows;
    }
};

/// For Q = Q8, Q4: sums in float of products of levels with activations that are not rounded, times the scales.
template <QuantizedScalar Q>
void multiply(cudaStream_t, MatrixView<const float> x, std::span<const WeightsFor<QuantizedView<Q>>> products, Update,
              bool gated = false);

/// For Q = Q8, Q4: the weights [rows, cols], rounded to bfloat16, for products with many tokens.
template <QuantizedScalar Q>
void dequantize(cudaStream_t, QuantizedView<Q> weights, MatrixView<bfloat16> out);

/// x [tokens, heads * head_dim] in place. positions [runs], in the device's memory, take the place of the runs' own.
/// frequencies [head_dim / 2].
void rotate(cudaStream_t, MatrixView<float> x, std::span<const TokenRun> runs, const Index* positions,
            const float* frequencies, Index head_dim, RotaryPairing);

/// For C = float, half, bfloat16: x rounded to nearest, ties to even, for products with many tokens.
template <class C>
void convert(cudaStream_t, MatrixView<const float> x, MatrixView<C> out);

/// The same of keys and values, for a cache.
template <class C>
void convert(cudaStream_t, MatrixView<const float> keys, MatrixView<const float> values, MatrixView<C> cached_keys,
             MatrixView<C> cached_values);

/// For C = float, half, bfloat16: position p goes to slot p mod capacity. Of more than `capacity` rows of a run the
/// newest are kept. positions [runs], in the device's memory, take the place of the runs' own.
template <class C>
void append(cudaStream_t, MatrixView<const C> keys, MatrixView<const C> values, std::span<const CachedRun<C>> runs,
            const Index* positions);

/// Attention of several sequences.
template <class C>
struct Attention {
    MatrixView<const float> queries;  ///< [tokens, query_heads * head_dim]
    MatrixView<const C> keys;         ///< of the same tokens, [tokens, kv_heads * head_dim]
    MatrixView<const C> values;       ///< likewise
    /// Position p before a run is in slot p mod capacity, as far as the windows of the queries go back.
    std::span<const CachedRun<C>> runs;
    const Index* positions = nullptr;  ///< [runs], in the device's memory: these count, and not the runs' own
    Shape shape;
    MatrixView<float> out;  ///< of the queries' shape
};

/// Bytes of scratch memory that `attend` wants, whatever the positions are.
template <class C>
[[nodiscard]] Index attention_scratch(std::span<const CachedRun<C>> runs, const Shape& shape);

/// For C = float, half, bfloat16. Runs of more than 16 tokens on tensor cores where C has 16 bits, head_dim is 64 or
/// 128, and rows of keys and values begin at multiples of 16 bytes. Throws Error where head_dim exceeds 256.
template <class C>
void attend(cudaStream_t, const Attention<C>& attention, std::byte* scratch);

/// out = silu(gate) * up; out may be gate or up.
void swiglu(cudaStream_t, MatrixView<const float> gate, MatrixView<const float> up, MatrixView<float> out);

}  // namespace mistral::cuda

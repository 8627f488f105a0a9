#pragma once

#include <mistral/device/cuda/kernels.hpp>
#include <mistral/device/cuda/kernels/elements.cuh>
#include <mistral/device/cuda/kernels/launch.cuh>
#include <mistral/device/cuda/kernels/rows_of_runs.cuh>
#include <mistral/device/cuda/kernels/swiglu.cuh>
#include <mistral/device/cuda/launch_shapes.hpp>
#include <mistral/device/device.hpp>

#include <cstddef>
#include <span>

/// What is done to single elements of matrices: a struct for each such operation, and one kernel for all of them.
namespace mistral::cuda {

/// Elements that a thread takes at once where they are aligned.
inline constexpr int elementwise_width = 4;

/// Applies an operation to every element of [rows, cols], to `width` in a row at once where so many are left.
template <int width, class Operation>
__global__ void __launch_bounds__(elementwise_threads) for_elements(Index rows, Index cols, Operation operation) {
    let_next_begin();
    wait_for_previous();
    const Index first = (Index{blockIdx.x} * elementwise_threads + threadIdx.x) * width;
    for (Index row = blockIdx.y; row < rows; row += gridDim.y) {
        if (first + width <= cols) {
            operation.template apply<width>(row, first);
        } else {
#pragma unroll 1
            for (Index col = first; col < cols; ++col) operation.template apply<1>(row, col);
        }
    }
}

template <int width, class Operation>
void launch_for_elements(cudaStream_t stream, Index rows, Index cols, const Operation& operation) {
    if (rows == 0 || cols == 0) return;
    const GridSize grid = elementwise_grid(rows, cols, width);
    launch(for_elements<width, Operation>, {grid.x, grid.y}, elementwise_threads, 0, stream, rows, cols, operation);
}

template <class Operation>
void launch_for_elements(cudaStream_t stream, Index rows, Index cols, bool aligned, const Operation& operation) {
    if (aligned)
        launch_for_elements<elementwise_width>(stream, rows, cols, operation);
    else
        launch_for_elements<1>(stream, rows, cols, operation);
}

template <class S>
struct Embed {
    const Token* tokens;
    Rows<const S> table;
    Rows<float> out;

    template <int width>
    __device__ __forceinline__ void apply(Index row, Index col) const {
        float values[width];
        load(table[tokens[row]] + col, values);
        store(values, out[row] + col);
    }
};

template <class S>
void embed(cudaStream_t stream, const Token* tokens, MatrixView<const S> table, MatrixView<float> out) {
    const bool aligned = is_aligned(table, elementwise_width) && is_aligned(out, elementwise_width);
    launch_for_elements(stream, out.rows(), out.cols(), aligned, Embed<S>{tokens, table, out});
}

template <class C>
struct Convert {
    Rows<const float> x;
    Rows<C> out;

    template <int width>
    __device__ __forceinline__ void apply(Index row, Index col) const {
        float values[width];
        load(x[row] + col, values);
        store(values, out[row] + col);
    }
};

template <class C>
void convert(cudaStream_t stream, MatrixView<const float> x, MatrixView<C> out) {
    const bool aligned = is_aligned(x, elementwise_width) && is_aligned(out, elementwise_width);
    launch_for_elements(stream, x.rows(), x.cols(), aligned, Convert<C>{x, out});
}

template <class C>
struct ConvertBoth {
    Convert<C> keys;
    Convert<C> values;

    template <int width>
    __device__ __forceinline__ void apply(Index row, Index col) const {
        keys.template apply<width>(row, col);
        values.template apply<width>(row, col);
    }
};

template <class C>
void convert(cudaStream_t stream, MatrixView<const float> keys, MatrixView<const float> values,
             MatrixView<C> cached_keys, MatrixView<C> cached_values) {
    const bool aligned = is_aligned(keys, elementwise_width) && is_aligned(values, elementwise_width) &&
                         is_aligned(cached_keys, elementwise_width) && is_aligned(cached_values, elementwise_width);
    launch_for_elements(stream, keys.rows(), keys.cols(), aligned,
                        ConvertBoth<C>{{keys, cached_keys}, {values, cached_values}});
}

struct Swiglu {
    Rows<const float> gate;
    Rows<const float> up;
    Rows<float> out;

    template <int width>
    __device__ __forceinline__ void apply(Index row, Index col) const {
        float gates[width], ups[width];
        load(gate[row] + col, gates);
        load(up[row] + col, ups);
#pragma unroll
        for (int i = 0; i < width; ++i) gates[i] = cuda::swiglu(gates[i], ups[i]);
        store(gates, out[row] + col);
    }
};

void swiglu(cudaStream_t stream, MatrixView<const float> gate, MatrixView<const float> up, MatrixView<float> out) {
    const bool aligned =
        is_aligned(gate, elementwise_width) && is_aligned(up, elementwise_width) && is_aligned(out, elementwise_width);
    launch_for_elements(stream, out.rows(), out.cols(), aligned, Swiglu{gate, up, out});
}

template <class C>
struct Append {
    Rows<const C> keys;
    Rows<const C> values;
    RowsOfRuns runs;
    KeyValueStore<C> stores[most_sequences];

    template <int width>
    __device__ __forceinline__ void apply(Index row, Index col) const {
        const auto token = static_cast<int>(row);
        const int run = runs.run_of(token);
        const KeyValueStore<C> store = stores[run];
        if (runs.first_rows[run + 1] - token > store.capacity) return;  // newer ones take its slot
        const Index head = static_cast<unsigned>(col) / static_cast<unsigned>(store.row_size);
        const Index slot = runs.position_of(token, run) % store.capacity;
        const Index to = (head * store.capacity + slot) * store.row_size + (col - head * store.row_size);
        copy<width>(keys[row] + col, store.keys + to);
        copy<width>(values[row] + col, store.values + to);
    }

  private:
    template <int width>
    __device__ __forceinline__ static void copy(const C* from, C* to) {
        if constexpr (width == 1)
            *to = *from;
        else
            store_words(load_words<width / per_word<C>>(from), to);
    }
};

template <class C>
void append(cudaStream_t stream, MatrixView<const C> keys, MatrixView<const C> values,
            std::span<const CachedRun<C>> runs, const Index* positions) {
    Append<C> operation{.keys = keys, .values = values, .runs = {runs, positions}, .stores = {}};
    bool aligned = is_aligned(keys, elementwise_width) && is_aligned(values, elementwise_width);
    for (std::size_t i = 0; i < runs.size(); ++i) {
        const KeyValueStore<C>& store = operation.stores[i] = runs[i].store;
        const auto rows = [&store](C* data) {
            return MatrixView<C>(data, store.kv_heads * store.capacity, store.row_size);
        };
        aligned = aligned && is_aligned(rows(store.keys), elementwise_width) &&
                  is_aligned(rows(store.values), elementwise_width);
    }
    launch_for_elements(stream, keys.rows(), keys.cols(), aligned, operation);
}

}  // namespace mistral::cuda

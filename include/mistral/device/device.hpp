#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/host_matrix.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/ring.hpp>
#include <mistral/base/window.hpp>
#include <mistral/scalar/cached_row.hpp>
#include <mistral/scalar/scalar.hpp>

#include <concepts>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

namespace mistral {

/// What a device's result does to what stood there before.
enum class Update {
    assign,  ///< replaces it
    add,     ///< is added to it: a residual connection
};

/// Keys and values of consecutive positions in the device's memory, as rows of a cache of scalar C. The key of head h
/// at position p starts at keys + h * head_stride + (p - position) * position_stride; so does the value.
template <class C>
struct KeyValueRun {
    const CachedElement<C>* keys = nullptr;
    const CachedElement<C>* values = nullptr;
    Index head_stride = 0;
    Index position_stride = 0;
    Index position = 0;
    Index count = 0;
};

/// A cache's memory, [kv_heads, capacity, row_size] each for keys and values; slots follow `Ring`.
template <class C>
struct KeyValueStore {
    CachedElement<C>* keys = nullptr;
    CachedElement<C>* values = nullptr;
    Index kv_heads = 0;
    Index capacity = 0;
    Index row_size = 0;  ///< CachedRow<C>::size(head_dim)
};

/// Quantised weights in a device's own order, which can be kept in a file and used where that is mapped:
///
///   layout     text that names the order, another one for another order
///   bytes_of   how many bytes a matrix [rows, cols] takes, a multiple of 64
///   bytes      of a matrix: what makes the same one again, at an address that is a multiple of 64, with what keeps
///              them alive
template <class M>
concept Mappable = requires(const M& matrix, std::shared_ptr<const void> owner, const std::byte* data) {
    { M::layout } -> std::convertible_to<std::string_view>;
    { M::bytes_of(Index{}, Index{}) } -> std::same_as<Index>;
    { matrix.bytes() } -> std::same_as<std::span<const std::byte>>;
    M(owner, data, Index{} /* rows */, Index{} /* cols */);
};

/// What a device does: a dozen verbs over matrices in its own memory. `model/` is written against this concept and
/// knows no device by name; a new device is a new folder that models it. A device is a small value whose copies share
/// its threads or streams. Verbs that need scratch memory take it from the workspace. Shapes, with tokens the number of
/// tokens of the chunk, whose first stands at `position`:
///
///   matrix     weights in host memory -> the same where the device multiplies them
///   quantize   rows, cols, a function that gives a row -> weights in the device's order of a quantised format
///   embed      tokens, table [vocab_size, hidden_size] -> out [tokens, hidden_size]
///   rms_norm   x [tokens, hidden_size], weight [1, hidden_size] -> out [tokens, hidden_size]
///   multiply   x [tokens, inputs], weights [outputs, inputs] -> out [tokens, outputs], assigned or added
///   rotate     x [tokens, heads * head_dim], frequencies [1, head_dim / 2], in place
///   convert    keys or values [tokens, kv_heads * head_dim] -> rows of a cache [tokens, kv_heads * row_size]
///   append     such rows of keys and values -> their slots in the store
///   attend     queries [tokens, query_heads * head_dim], runs in the order of positions -> out, of the queries' shape
///   swiglu     gate, up [tokens, intermediate_size] -> out = silu(gate) * up
///   copy_out   a matrix of the device -> one in host memory
///   copy_in    the reverse
template <class D>
concept Device = std::copyable<D> && Mappable<typename D::template Matrix<Q4>> &&
    requires(const D& device, typename D::Workspace& workspace, MatrixView<const float> x, MatrixView<float> out,
             MatrixView<bfloat16> cached, KeyValueStore<bfloat16> store,
             const typename D::template Matrix<bfloat16>& weights, const typename D::template Matrix<float>& vector,
             const Ring& ring) {
    typename D::template Buffer<bfloat16>;
    { device.matrix(HostMatrix<bfloat16>{}) } -> std::same_as<typename D::template Matrix<bfloat16>>;
    {
        device.template quantize<Q4>(Index{}, Index{}, [](Index, float*) {})
        } -> std::same_as<typename D::template Matrix<Q4>>;
    device.embed(std::span<const Token>{}, weights, out);
    device.rms_norm(x, vector, 1e-5, out);
    device.multiply(x, weights, out, Update::add, workspace);
    device.rotate(out, Index{} /* position */, vector, RotaryPairing::halves);
    device.template convert<bfloat16>(x, Index{} /* head_dim */, cached);
    device.append(MatrixView<const bfloat16>(cached), MatrixView<const bfloat16>(cached), ring, store);
    device.attend(x, Index{} /* position */, std::span<const KeyValueRun<bfloat16>>{}, Shape{}, out, workspace);
    device.swiglu(x, x, out);
    device.copy_out(x, out);
    device.copy_in(x, out);
};

}  // namespace mistral

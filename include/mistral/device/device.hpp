#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/host_matrix.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/window.hpp>
#include <mistral/scalar/cached_row.hpp>
#include <mistral/scalar/scalar.hpp>

#include <array>
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

/// One of the linear maps of an input: weights [outputs, inputs], out [tokens, outputs].
template <class M, class A>
struct Product {
    const M& weights;
    MatrixView<A> out;
};
template <class M, class A>
Product(const M&, MatrixView<A>) -> Product<M, A>;

/// So many may one verb compute, such as those to queries, keys and values.
inline constexpr std::size_t most_products = 3;

/// A cache's memory, [kv_heads, capacity, row_size] each for keys and values; slots follow `Ring`.
template <class C>
struct KeyValueStore {
    CachedElement<C>* keys = nullptr;
    CachedElement<C>* values = nullptr;
    Index kv_heads = 0;
    Index capacity = 0;
    Index row_size = 0;  ///< CachedRow<C>::size(head_dim)
};

/// So many sequences may one verb take.
inline constexpr std::size_t most_sequences = 16;

/// The next token of one sequence.
struct Step {
    std::shared_ptr<const void> caches;  ///< another pointer for other memory
    Index position = 0;
};

/// A pass of a model over the next token of each of some sequences, `most_sequences` at most, as far as a device must
/// know it to do it again. Those of its verbs that take runs take one of every sequence, in the order of the steps.
struct Pass {
    std::shared_ptr<const void> model;  ///< another pointer for another model
    std::span<const Step> steps;
    Index logits = 0;  ///< tokens whose logits are wanted
};

/// Consecutive tokens of one sequence, which are rows of a pass after those of the sequence before it.
struct TokenRun {
    Index position = 0;  ///< of the first
    Index tokens = 0;
};

/// The same, with the cache that holds what came before.
template <class C>
struct CachedRun {
    Index position = 0;
    Index tokens = 0;
    Index first_resident = 0;  ///< positions from here to before `position` are in the store
    KeyValueStore<C> store;
};

/// Quantised weights in a device's own order, which can be kept in a file and used where that is mapped:
///
///   layout     text that names the order, another one for another order
///   bytes_of   how many bytes a matrix [rows, cols] takes, a multiple of 64
///   bytes      of a matrix: what `mapped` makes the same one of again
template <class M>
concept Mappable = requires(const M& matrix) {
    { M::layout } -> std::convertible_to<std::string_view>;
    { M::bytes_of(Index{}, Index{}) } -> std::same_as<Index>;
    { matrix.bytes() } -> std::convertible_to<std::span<const std::byte>>;
};

/// What a device does: a dozen verbs over matrices in its own memory. `model/` is written against this concept and
/// knows no device by name; a new device is a new folder that models it. A device is a small value whose copies share
/// its threads or memory.
///
///   buffer     uninitialised memory for so many elements
///   workspace  what one sequence needs to compute: scratch memory, and the order in which its verbs are done
///   matrix     weights in host memory -> the same where the device multiplies them
///   quantize   rows, cols, a function that gives a row -> weights in the device's order of a quantised format
///   mapped     an owner and the bytes of such weights at a multiple of 64, rows, cols -> the weights
///
/// Verbs take a workspace, and those with the same one are done one after the other, perhaps later: results are there
/// once `finish` returns, and until then nothing that they read may change. Shapes, with tokens the number of tokens of
/// all runs together, each of which is of another sequence:
///
///   embed      tokens [1, tokens], table [vocab_size, hidden_size] -> out [tokens, hidden_size]
///   rms_norm   x [tokens, hidden_size], weight [1, hidden_size] -> out [tokens, hidden_size]
///   multiply   x [tokens, inputs], products -> each out = x times its weights, transposed, assigned or added
///   gate       x [tokens, inputs], two products -> the first's out = silu(gate) * up of x times their weights, gate
///              the first; the other's out is scratch memory
///   rotate     x [tokens, heads * head_dim], runs, frequencies [1, head_dim / 2], in place
///   convert    keys and values [tokens, kv_heads * head_dim] -> rows of a cache [tokens, kv_heads * row_size] each
///   append     such rows of keys and values, runs -> their slots in the runs' stores
///   attend     queries [tokens, query_heads * head_dim], such rows of their own keys and values, runs -> out, of the
///              queries' shape
///   copy       a matrix of the device -> another
///   copy_in    a matrix in host memory -> one of the device
///   copy_out   the reverse
///   perform    calls body(), which asks for all verbs of a pass that reads and writes where the last one of that
///              model, caches and logits did; or does again, at the pass's positions, what the body asked for then.
///              Returns whether it called the body
///   finish     waits until the results of all verbs are there
template <class D>
concept Device = std::copyable<D> && Mappable<typename D::template Matrix<Q4>> &&
    requires(const D& device, typename D::Workspace& workspace, MatrixView<const float> x, MatrixView<float> out,
             MatrixView<const bfloat16> rows, MatrixView<bfloat16> cached, std::span<const TokenRun> runs,
             std::span<const CachedRun<bfloat16>> cached_runs, const typename D::template Matrix<bfloat16>& weights,
             const typename D::template Matrix<float>& vector, std::shared_ptr<const void> owner,
             const std::byte* data) {
    { device.template buffer<bfloat16>(Index{}) } -> std::same_as<typename D::template Buffer<bfloat16>>;
    { device.workspace() } -> std::same_as<typename D::Workspace>;
    { device.matrix(HostMatrix<bfloat16>{}) } -> std::same_as<typename D::template Matrix<bfloat16>>;
    {
        device.template quantize<Q4>(Index{}, Index{}, [](Index, float*) {})
        } -> std::same_as<typename D::template Matrix<Q4>>;
    { device.template mapped<Q4>(owner, data, Index{}, Index{}) } -> std::same_as<typename D::template Matrix<Q4>>;
    device.embed(MatrixView<const Token>{}, weights, out, workspace);
    device.rms_norm(x, vector, 1e-5, out, workspace);
    device.multiply(x, std::array{Product{weights, out}}, Update::add, workspace);
    device.gate(x, Product{weights, out}, Product{weights, out}, workspace);
    device.rotate(out, runs, vector, RotaryPairing::halves, workspace);
    device.template convert<bfloat16>(x, x, Index{} /* head_dim */, cached, cached, workspace);
    device.template append<bfloat16>(rows, rows, cached_runs, workspace);
    device.template attend<bfloat16>(x, rows, rows, cached_runs, Shape{}, out, workspace);
    device.copy(x, out, workspace);
    device.copy_in(x, out, workspace);
    device.copy_out(x, out, workspace);
    {
        device.perform(Pass{}, workspace, [] {})
        } -> std::same_as<bool>;
    device.finish(workspace);
};

}  // namespace mistral

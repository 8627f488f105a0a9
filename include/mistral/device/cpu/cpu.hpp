#pragma once

#include <mistral/base/aligned_buffer.hpp>
#include <mistral/base/host_matrix.hpp>
#include <mistral/base/workspace.hpp>
#include <mistral/device/cpu/attention.hpp>
#include <mistral/device/cpu/elementwise.hpp>
#include <mistral/device/cpu/multiply.hpp>
#include <mistral/device/cpu/multiply_quantized.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <cassert>
#include <concepts>
#include <memory>

namespace mistral {

/// How activations meet quantised weights: in 15 bits, or in 8, which is twice as fast where arithmetic bounds. No
/// other weights mind.
enum class ActivationPrecision {
    precise,   ///< 15 bits: a token gives the same bits in any chunk
    balanced,  ///< 8 bits in chunks of more than 32 tokens, such as prompts, for Q4, whose weights are rounded more
               ///< coarsely by far; 15 otherwise
    fast,      ///< 8 bits: a token gives the same bits in any chunk
};

/// Balanced chunks of so many tokens are precise: the longest draft is among them.
inline constexpr Index always_precise_tokens = 32;

struct CpuOptions {
    /// To compute on, the caller's included; 0 means one per core.
    Index threads = 0;
    /// Runs the loops instead of threads of the device's own, as `threads` tasks each. It must outlive the device, and
    /// serves as many callers at the same time as there are threads with sessions.
    Executor executor = nullptr;
    ActivationPrecision activation_precision = ActivationPrecision::balanced;
};

/// How the processor keeps a matrix: quantised ones in an order of its own, others where they are.
template <class T>
struct MatrixOf {
    using type = HostMatrix<T>;
};
template <QuantizedScalar Q>
struct MatrixOf<Q> {
    using type = PackedMatrix<Q>;
};

/// The processor, with a pool of threads that all copies share. `Architecture` is one of xsimd's instruction sets; as
/// it stands in the type, models compiled for several of them live in one program, each with the compiler flags of its
/// own set: under those of a larger one, compilers fuse multiplications and additions here and not there, and chunks no
/// longer give the same bits. The verbs are those of `Device`; they check shapes by assertion only, `model/` checks
/// what comes from outside.
template <class Architecture>
class BasicCpu {
  public:
    template <class T>
    using Buffer = AlignedBuffer<T>;
    template <class T>
    using Matrix = typename MatrixOf<T>::type;
    using Workspace = BasicWorkspace<AlignedBuffer<std::byte>>;

    /// Computes on `threads` threads, the caller's included; 0 means one per core. Throws Error for a nonsense number.
    explicit BasicCpu(Index threads = 0) : BasicCpu(CpuOptions{.threads = threads}) {}
    explicit BasicCpu(const CpuOptions& options)
        : pool_(make_pool(options)), activation_precision_(options.activation_precision) {}

    [[nodiscard]] Index threads() const { return pool_->threads(); }

    template <class T>
    [[nodiscard]] Matrix<T> matrix(HostMatrix<T> weights) const {
        return weights;
    }

    template <QuantizedScalar Q, class Read>
    [[nodiscard]] Matrix<Q> quantize(Index rows, Index cols, Read&& read) const {
        return Matrix<Q>(*pool_, rows, cols, read);
    }

    template <class S>
    void embed(std::span<const Token> tokens, const HostMatrix<S>& table, MatrixView<Activation<S>> out) const {
        assert(out.rows() == static_cast<Index>(tokens.size()) && out.cols() == table.cols());
        for (Index t = 0; t < out.rows(); ++t)
            std::transform(table.view.row(tokens[static_cast<std::size_t>(t)]),
                           table.view.row(tokens[static_cast<std::size_t>(t)]) + out.cols(), out.row(t),
                           [](const S& element) { return static_cast<Activation<S>>(element); });
    }

    template <class A>
    void rms_norm(MatrixView<const A> x, const HostMatrix<A>& weight, double eps, MatrixView<A> out) const {
        assert(weight.cols() == x.cols() && out.rows() == x.rows() && out.cols() == x.cols());
        for_rows(x.rows(), [&](Index t) {
            cpu::rms_norm_row<Architecture>(x.row(t), weight.view.data(), eps, x.cols(), out.row(t));
        });
    }

    template <class S>
    void multiply(MatrixView<const Activation<S>> x, const HostMatrix<S>& weights, MatrixView<Activation<S>> out,
                  Update update, Workspace& workspace) const {
        assert(weights.cols() == x.cols() && out.rows() == x.rows() && out.cols() == weights.rows());
        cpu::multiply<Architecture>(*pool_, x, weights.view, out, update, workspace);
    }

    template <QuantizedScalar Q>
    void multiply(MatrixView<const float> x, const PackedMatrix<Q>& weights, MatrixView<float> out, Update update,
                  Workspace& workspace) const {
        assert(weights.cols() == x.cols() && out.rows() == x.rows() && out.cols() == weights.rows());
        const bool is_coarse = std::same_as<Q, Q4> && x.rows() > always_precise_tokens;
        if (activation_precision_ == ActivationPrecision::fast ||
            (activation_precision_ == ActivationPrecision::balanced && is_coarse))
            cpu::multiply<Architecture, 1>(*pool_, x, weights, out, update, workspace);
        else
            cpu::multiply<Architecture, 2>(*pool_, x, weights, out, update, workspace);
    }

    template <class A>
    void rotate(MatrixView<A> x, Index position, const HostMatrix<float>& frequencies, RotaryPairing pairing) const {
        const Index head_dim = 2 * frequencies.view.cols();
        assert(x.cols() % head_dim == 0);
        for_rows(x.rows(), [&](Index t) {
            cpu::rotate_row<Architecture>(x.row(t), x.cols() / head_dim, head_dim, position + t,
                                          frequencies.view.data(), pairing);
        });
    }

    template <class A, class C>
    void convert(MatrixView<const A> x, MatrixView<C> out) const {
        assert(out.rows() == x.rows() && out.cols() == x.cols());
        for_rows(x.rows(), [&](Index t) {
            std::transform(x.row(t), x.row(t) + x.cols(), out.row(t),
                           [](A element) { return static_cast<C>(element); });
        });
    }

    template <class C>
    void append(MatrixView<const C> keys, MatrixView<const C> values, const Ring& ring, KeyValueStore<C> store) const {
        assert(keys.cols() == store.kv_heads * store.head_dim);
        for (Index t = std::max<Index>(0, keys.rows() - store.capacity); t < keys.rows(); ++t)
            for (Index head = 0; head < store.kv_heads; ++head) {
                const Index to = (head * store.capacity + ring.slot(ring.next_position() + t)) * store.head_dim;
                std::copy_n(keys.row(t) + head * store.head_dim, store.head_dim, store.keys + to);
                std::copy_n(values.row(t) + head * store.head_dim, store.head_dim, store.values + to);
            }
    }

    template <class C>
    void attend(MatrixView<const Activation<C>> queries, Index position, std::span<const KeyValueRun<C>> runs,
                const Shape& shape, MatrixView<Activation<C>> out, Workspace& workspace) const {
        assert(queries.cols() == shape.query_heads * shape.head_dim && out.cols() == queries.cols());
        cpu::attend<Architecture, C>(*pool_, queries, position, runs, shape, out, workspace);
    }

    template <class A>
    void swiglu(MatrixView<const A> gate, MatrixView<const A> up, MatrixView<A> out) const {
        for_rows(gate.rows(),
                 [&](Index t) { cpu::swiglu_row<Architecture>(gate.row(t), up.row(t), gate.cols(), out.row(t)); });
    }

    template <class T>
    void copy_out(MatrixView<const T> from, MatrixView<T> to) const {
        for (Index i = 0; i < from.rows(); ++i) std::copy_n(from.row(i), from.cols(), to.row(i));
    }

    template <class T>
    void copy_in(MatrixView<const T> from, MatrixView<T> to) const {
        copy_out(from, to);
    }

  private:
    static std::shared_ptr<ThreadPool> make_pool(const CpuOptions& options) {
        if (!options.executor) return std::make_shared<ThreadPool>(options.threads);
        const Index cores = std::max<Index>(1, static_cast<Index>(std::thread::hardware_concurrency()));
        return std::make_shared<ThreadPool>(options.threads == 0 ? cores : options.threads, options.executor);
    }

    /// Calls body(row) for every row, a few rows at a time where there are enough of them to share out.
    template <class Body>
    void for_rows(Index rows, Body&& body) const {
        constexpr Index rows_per_task = 4;
        pool_->for_each((rows + rows_per_task - 1) / rows_per_task, [&](Index, Index i) noexcept {
            for (Index row = i * rows_per_task; row < std::min(rows, (i + 1) * rows_per_task); ++row) body(row);
        });
    }

    std::shared_ptr<ThreadPool> pool_;
    ActivationPrecision activation_precision_;
};

/// The processor with the instruction set that the translation unit is compiled for.
using Cpu = BasicCpu<NativeInstructionSet>;

static_assert(Device<Cpu>);

}  // namespace mistral

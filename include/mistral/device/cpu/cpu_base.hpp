#pragma once

#include <mistral/base/aligned_buffer.hpp>
#include <mistral/base/host_matrix.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/ring.hpp>
#include <mistral/base/workspace.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/core_kind.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <memory>
#include <span>
#include <thread>
#include <utility>

namespace mistral {

/// How activations meet quantised weights: in 15 bits, or coarser, which is faster where arithmetic bounds. In 8 bits
/// where the instruction set multiplies bytes; AVX2 does not, and is as fast with 15. As bfloat16, and the weights too,
/// where the processor multiplies tiles (AMX), which is faster still, and less coarse. No other weights mind.
enum class ActivationPrecision {
    precise,   ///< 15 bits: a token gives the same bits in any chunk
    balanced,  ///< coarser in passes of more than 32 tokens, such as prompts, where that is faster: as bfloat16, or,
               ///< for Q4, whose weights are rounded more coarsely by far, in 8 bits; 15 otherwise
    fast,      ///< 8 bits: a token gives the same bits in any chunk
};

/// Balanced passes of so many tokens are precise: the longest draft is among them.
inline constexpr Index always_precise_tokens = 32;

struct CpuOptions {
    /// To compute on, the caller's included; 0 means one per core.
    Index threads = 0;
    /// Runs the loops instead of threads of the device's own, as `threads` tasks each. It must outlive the device, and
    /// serves as many callers at the same time as there are threads with sessions.
    Executor executor = nullptr;
    ActivationPrecision activation_precision = ActivationPrecision::balanced;
    /// Whether tiles of AMX are used where processor and system have them. Linux saves more registers of a process's
    /// threads then, and wants alternate stacks for signals to be as large as sysconf(_SC_SIGSTKSZ) tells.
    bool amx = true;
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

/// Scratch memory of a chunk of a prompt is large, and is written row by row, far apart: huge pages spare translations.
struct AllocateScratch {
    AlignedBuffer<std::byte> operator()(Index size) const { return AlignedBuffer<std::byte>(size, Pages::huge); }
};

/// What devices on the processor have in common, whatever instructions they compute with: a pool of threads that all
/// copies share, and the verbs that only move numbers.
class CpuBase {
  public:
    template <class T>
    using Buffer = AlignedBuffer<T>;
    template <class T>
    using Matrix = typename MatrixOf<T>::type;
    using Workspace = BasicWorkspace<AlignedBuffer<std::byte>, AllocateScratch>;

    /// Computes on `threads` threads, the caller's included; 0 means one per core. Throws Error for a nonsense number.
    explicit CpuBase(Index threads = 0) : CpuBase(CpuOptions{.threads = threads}) {}
    explicit CpuBase(const CpuOptions& options)
        : pool_(make_pool(options)),
          activation_precision_(options.activation_precision),
          may_use_amx_(options.amx && cpu::amx_is_available()),
          core_kind_(cpu::core_kind_of_processor()),
          multiplies_in_float_(cpu::multiplies_faster_in_float()) {}

    [[nodiscard]] Index threads() const { return pool_->threads(); }

    template <class T>
    [[nodiscard]] Buffer<T> buffer(Index size) const {
        return Buffer<T>(size);
    }
    [[nodiscard]] Workspace workspace() const { return {}; }

    template <class T>
    [[nodiscard]] Matrix<T> matrix(HostMatrix<T> weights) const {
        return weights;
    }
    template <QuantizedScalar Q>
    [[nodiscard]] Matrix<Q> mapped(std::shared_ptr<const void> owner, const std::byte* data, Index rows,
                                   Index cols) const {
        return Matrix<Q>(std::move(owner), data, rows, cols);
    }

    template <class S>
    void embed(MatrixView<const Token> tokens, const HostMatrix<S>& table, MatrixView<Activation<S>> out,
               Workspace&) const {
        assert(out.rows() == tokens.cols() && out.cols() == table.cols());
        for (Index t = 0; t < out.rows(); ++t)
            std::transform(table.view.row(tokens(0, t)), table.view.row(tokens(0, t)) + out.cols(), out.row(t),
                           [](const S& element) { return static_cast<Activation<S>>(element); });
    }

    template <class C>
    void append(MatrixView<const CachedElement<C>> keys, MatrixView<const CachedElement<C>> values,
                std::span<const CachedRun<C>> runs, Workspace&) const {
        Index row = 0;
        for (const CachedRun<C>& run : runs) {
            const KeyValueStore<C>& store = run.store;
            const Ring ring(store.capacity);
            assert(keys.cols() == store.kv_heads * store.row_size);
            for (Index t = std::max<Index>(0, run.tokens - store.capacity); t < run.tokens; ++t)
                for (Index head = 0; head < store.kv_heads; ++head) {
                    const Index from = head * store.row_size;
                    const Index to = (head * store.capacity + ring.slot(run.position + t)) * store.row_size;
                    std::copy_n(keys.row(row + t) + from, store.row_size, store.keys + to);
                    std::copy_n(values.row(row + t) + from, store.row_size, store.values + to);
                }
            row += run.tokens;
        }
    }

    template <class T>
    void copy(MatrixView<const T> from, MatrixView<T> to, Workspace&) const {
        for (Index i = 0; i < from.rows(); ++i) std::copy_n(from.row(i), from.cols(), to.row(i));
    }
    template <class T>
    void copy_in(MatrixView<const T> from, MatrixView<T> to, Workspace& workspace) const {
        copy(from, to, workspace);
    }
    template <class T>
    void copy_out(MatrixView<const T> from, MatrixView<T> to, Workspace& workspace) const {
        copy(from, to, workspace);
    }

    template <class Body>
    bool perform(const Pass&, Workspace&, Body&& body) const {
        body();
        return true;
    }

    /// Every verb is done when it returns.
    void finish(Workspace&) const {}

  protected:
    [[nodiscard]] ThreadPool& pool() const { return *pool_; }
    [[nodiscard]] ActivationPrecision activation_precision() const { return activation_precision_; }
    [[nodiscard]] bool may_use_amx() const { return may_use_amx_; }
    [[nodiscard]] cpu::CoreKind core_kind() const { return core_kind_; }
    [[nodiscard]] bool multiplies_in_float() const { return multiplies_in_float_; }

  private:
    static std::shared_ptr<ThreadPool> make_pool(const CpuOptions& options) {
        if (!options.executor) return std::make_shared<ThreadPool>(options.threads);
        const Index cores = std::max<Index>(1, static_cast<Index>(std::thread::hardware_concurrency()));
        return std::make_shared<ThreadPool>(options.threads == 0 ? cores : options.threads, options.executor);
    }

    std::shared_ptr<ThreadPool> pool_;
    ActivationPrecision activation_precision_;
    bool may_use_amx_;
    cpu::CoreKind core_kind_;
    bool multiplies_in_float_;
};

}  // namespace mistral

#pragma once

#include <mistral/base/host_matrix.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/device/cpu/attention.hpp>
#include <mistral/device/cpu/cpu_base.hpp>
#include <mistral/device/cpu/elementwise.hpp>
#include <mistral/device/cpu/multiply.hpp>
#include <mistral/device/cpu/multiply_amx.hpp>
#include <mistral/device/cpu/multiply_quantized.hpp>
#include <mistral/device/cpu/multiply_quantized_amx.hpp>
#include <mistral/device/cpu/packed_matrix.hpp>
#include <mistral/device/cpu/quad_lanes.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#if defined(MISTRAL_DISPATCH)
#include <mistral/device/cpu/dispatched_cpu.hpp>
#endif

namespace mistral {

/// The processor, with a pool of threads that all copies share. `Architecture` is one of xsimd's instruction sets; as
/// it stands in the type, models compiled for several of them live in one program, each with the compiler flags of its
/// own set: under those of a larger one, compilers fuse multiplications and additions here and not there, and chunks no
/// longer give the same bits. The verbs are those of `Device`; they check shapes by assertion only, `model/` checks
/// what comes from outside.
template <class Architecture>
class BasicCpu : public CpuBase {
  public:
    using CpuBase::CpuBase;

    /// Shares the threads and options of another device on the processor.
    explicit BasicCpu(CpuBase other) : CpuBase(std::move(other)) {}

    template <QuantizedScalar Q, class Read>
    [[nodiscard]] Matrix<Q> quantize(Index rows, Index cols, Read&& read) const {
        return Matrix<Q>(pool(), rows, cols, read);
    }

    template <class A>
    void rms_norm(MatrixView<const A> x, const HostMatrix<A>& weight, double eps, MatrixView<A> out, Workspace&) const {
        assert(weight.cols() == x.cols() && out.rows() == x.rows() && out.cols() == x.cols());
        for_rows(x.rows(), [&](Index t) {
            cpu::rms_norm_row<Architecture>(x.row(t), weight.view.data(), eps, x.cols(), out.row(t));
        });
    }

    template <class M, class A, std::size_t count>
    void multiply(std::type_identity_t<MatrixView<const A>> x, const std::array<Product<M, A>, count>& products,
                  Update update, Workspace& workspace) const {
        multiply(x, std::span<const Product<M, A>>(products), update, workspace);
    }

    template <class S>
    void multiply(MatrixView<const Activation<S>> x, std::span<const Product<HostMatrix<S>, Activation<S>>> products,
                  Update update, Workspace& workspace) const {
        if constexpr (has_dots && std::same_as<S, bfloat16>) {
            if (may_use_amx()) return cpu::multiply<Amx, S>(pool(), x, products, update, workspace);
            if (multiplies_in_float())
                return cpu::multiply<Avx512Float, S>(pool(), x, products, update, core_kind(), workspace);
        }
        cpu::multiply<Architecture, S>(pool(), x, products, update, core_kind(), workspace);
    }

    template <QuantizedScalar Q>
    void multiply(MatrixView<const float> x, std::span<const Product<PackedMatrix<Q>, float>> products, Update update,
                  Workspace& workspace) const {
        using Digit = typename cpu::QuadLanes<Architecture>::Digit;
        const bool may_be_coarse =
            activation_precision() == ActivationPrecision::balanced && x.rows() > always_precise_tokens;
        const bool is_fast = activation_precision() == ActivationPrecision::fast;
        if constexpr (has_dots)
            if (may_use_amx()) {
                if (may_be_coarse) return cpu::multiply<Amx, Q>(pool(), x, products, update, workspace);
                if (is_fast) return cpu::multiply<Amx, 8, Q>(pool(), x, products, update, core_kind(), workspace);
                return cpu::multiply<Amx, 15, Q>(pool(), x, products, update, core_kind(), workspace);
            }
        if (is_fast || (may_be_coarse && std::same_as<Q, Q4> && sizeof(Digit) == 1))
            cpu::multiply<Architecture, 8, Q>(pool(), x, products, update, core_kind(), workspace);
        else
            cpu::multiply<Architecture, 15, Q>(pool(), x, products, update, core_kind(), workspace);
    }

    template <class M, class A>
    void gate(std::type_identity_t<MatrixView<const A>> x, const Product<M, A>& gate, const Product<M, A>& up,
              Workspace& workspace) const {
        multiply(x, std::array{gate, up}, Update::assign, workspace);
        swiglu<A>(gate.out, up.out, gate.out, workspace);
    }

    template <class A>
    void rotate(MatrixView<A> x, std::span<const TokenRun> runs, const HostMatrix<float>& frequencies,
                RotaryPairing pairing, Workspace&) const {
        const Index head_dim = 2 * frequencies.view.cols();
        assert(x.cols() % head_dim == 0);
        for_rows(x.rows(), [&](Index t) {
            cpu::rotate_row<Architecture>(x.row(t), x.cols() / head_dim, head_dim, position_of(t, runs),
                                          frequencies.view.data(), pairing);
        });
    }

    template <class C>
    void convert(MatrixView<const Activation<C>> keys, MatrixView<const Activation<C>> values, Index head_dim,
                 MatrixView<CachedElement<C>> cached_keys, MatrixView<CachedElement<C>> cached_values,
                 Workspace&) const {
        const Index heads = keys.cols() / head_dim;
        const Index row_size = CachedRow<C>::size(head_dim);
        assert(keys.cols() == heads * head_dim && values.rows() == keys.rows() && values.cols() == keys.cols());
        assert(cached_keys.rows() == keys.rows() && cached_keys.cols() == heads * row_size);
        assert(cached_values.rows() == keys.rows() && cached_values.cols() == heads * row_size);
        for_rows(keys.rows(), [&](Index t) {
            for (Index head = 0; head < heads; ++head) {
                CachedRow<C>::write(keys.row(t) + head * head_dim, head_dim, cached_keys.row(t) + head * row_size);
                CachedRow<C>::write(values.row(t) + head * head_dim, head_dim, cached_values.row(t) + head * row_size);
            }
        });
    }

    template <class C>
    void attend(MatrixView<const Activation<C>> queries, MatrixView<const CachedElement<C>> keys,
                MatrixView<const CachedElement<C>> values, std::span<const CachedRun<C>> runs, const Shape& shape,
                MatrixView<Activation<C>> out, Workspace& workspace) const {
        assert(queries.cols() == shape.query_heads * shape.head_dim && out.cols() == queries.cols());
        if constexpr (has_dots && (std::same_as<C, bfloat16> || std::same_as<C, Q8>))
            if (may_use_amx()) return cpu::attend<Amx, C>(pool(), queries, keys, values, runs, shape, out, workspace);
        cpu::attend<Architecture, C>(pool(), queries, keys, values, runs, shape, out, workspace);
    }

    template <class A>
    void swiglu(MatrixView<const A> gate, MatrixView<const A> up, MatrixView<A> out, Workspace&) const {
        for_rows(gate.rows(),
                 [&](Index t) { cpu::swiglu_row<Architecture>(gate.row(t), up.row(t), gate.cols(), out.row(t)); });
    }

  private:
    /// Whether this device multiplies bfloat16, and by tiles where there are any.
    static constexpr bool has_dots = std::same_as<Architecture, Avx512Dot>;

    /// Of the token that is this row of all runs.
    static Index position_of(Index row, std::span<const TokenRun> runs) {
        std::size_t i = 0;
        for (; row >= runs[i].tokens; ++i) row -= runs[i].tokens;
        return runs[i].position + row;
    }

    /// Calls body(row) for every row, a few rows at a time where there are enough of them to share out.
    template <class Body>
    void for_rows(Index rows, Body&& body) const {
        constexpr Index rows_per_task = 4;
        pool().for_each(divide_up(rows, rows_per_task), [&](Index, Index i) noexcept {
            for (Index row = i * rows_per_task; row < std::min(rows, (i + 1) * rows_per_task); ++row) body(row);
        });
    }
};

/// The processor with the instruction set that the translation unit is compiled for, or with its own best.
using Cpu = BasicCpu<NativeInstructionSet>;

static_assert(Device<Cpu>);

}  // namespace mistral

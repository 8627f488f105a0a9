#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/intrinsics.hpp>
#include <mistral/device/cpu/cpu_base.hpp>
#include <mistral/device/cpu/instruction_set.hpp>
#include <mistral/device/cpu/kernels.hpp>
#include <mistral/device/device.hpp>

#include <array>
#include <cstddef>
#include <functional>
#include <span>
#include <string_view>
#include <type_traits>

#if defined(MISTRAL_X86) && defined(__GNUC__)
#include <cpuid.h>
#endif

/// The choice of instructions at run time, for programs that link `mistral::dispatch`: one binary for every x86-64
/// processor. The kernels are compiled once per instruction set, and all else for the program's own.
namespace mistral {

/// What kernels are compiled for. The order is that of preference.
enum class InstructionSet {
    baseline,    ///< that of the program
    avx2,        ///< AVX2, FMA and F16C: Haswell, Zen, and later
    avx512_dot,  ///< AVX-512 with VNNI and BF16, and AMX where it is: Zen 4, Cooper Lake, Sapphire Rapids, and later
};

[[nodiscard]] constexpr std::string_view name(InstructionSet set) {
    switch (set) {
        case InstructionSet::avx512_dot:
            return "avx512_dot";
        case InstructionSet::avx2:
            return "avx2";
        default:
            return "baseline";
    }
}

/// Whether the processor has the instruction set, and the system saves its registers.
[[nodiscard]] inline bool is_supported(InstructionSet set) {
    switch (set) {
        case InstructionSet::baseline:
            return true;
#if defined(MISTRAL_X86) && defined(__GNUC__)
        case InstructionSet::avx2: {
            unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;  // Clang 14 does not know F16C by name
            return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) && __builtin_cpu_supports("avx2") &&
                   __builtin_cpu_supports("fma");
        }
        case InstructionSet::avx512_dot:
            return is_supported(InstructionSet::avx2) && __builtin_cpu_supports("avx512f") &&
                   __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#endif
        default:
            return false;
    }
}

/// The best that the processor has.
[[nodiscard]] inline InstructionSet best_instruction_set() {
    for (const auto set : {InstructionSet::avx512_dot, InstructionSet::avx2})
        if (is_supported(set)) return set;
    return InstructionSet::baseline;
}

template <class Architecture>
class BasicCpu;

/// The processor with instructions that are chosen when the device is made. Results are those of the `BasicCpu` that
/// the kernels are compiled as, bit for bit.
template <>
class BasicCpu<Dispatched> : public CpuBase {
  public:
    explicit BasicCpu(Index threads = 0) : BasicCpu(CpuOptions{.threads = threads}) {}

    /// Throws Error for an instruction set that the processor lacks, and for a nonsense number of threads.
    explicit BasicCpu(const CpuOptions& options, InstructionSet set = best_instruction_set())
        : CpuBase(options), instruction_set_(set), kernels_(&kernels_of(set)) {}

    [[nodiscard]] InstructionSet instruction_set() const { return instruction_set_; }

    template <QuantizedScalar Q, class Read>
    [[nodiscard]] Matrix<Q> quantize(Index rows, Index cols, Read&& read) const {
        return kernels<cpu::QuantizationKernels<Q>>().quantize(*this, rows, cols, std::ref(read));
    }

    template <class A>
    void rms_norm(MatrixView<const A> x, const HostMatrix<A>& weight, double eps, MatrixView<A> out,
                  Workspace& workspace) const {
        kernels<cpu::ActivationKernels<A>>().rms_norm(*this, x, weight, eps, out, workspace);
    }

    template <class M, class A, std::size_t count>
    void multiply(std::type_identity_t<MatrixView<const A>> x, const std::array<Product<M, A>, count>& products,
                  Update update, Workspace& workspace) const {
        multiply(x, std::span<const Product<M, A>>(products), update, workspace);
    }

    template <class S>
    void multiply(MatrixView<const Activation<S>> x, std::span<const Product<HostMatrix<S>, Activation<S>>> products,
                  Update update, Workspace& workspace) const {
        kernels<cpu::WeightKernels<S>>().multiply(*this, x, products, update, workspace);
    }

    template <QuantizedScalar Q>
    void multiply(MatrixView<const float> x, std::span<const Product<PackedMatrix<Q>, float>> products, Update update,
                  Workspace& workspace) const {
        kernels<cpu::WeightKernels<Q>>().multiply(*this, x, products, update, workspace);
    }

    template <class M, class A>
    void gate(std::type_identity_t<MatrixView<const A>> x, const Product<M, A>& gate, const Product<M, A>& up,
              Workspace& workspace) const {
        multiply(x, std::array{gate, up}, Update::assign, workspace);
        swiglu<A>(gate.out, up.out, gate.out, workspace);
    }

    template <class A>
    void rotate(MatrixView<A> x, std::span<const TokenRun> runs, const HostMatrix<float>& frequencies,
                RotaryPairing pairing, Workspace& workspace) const {
        kernels<cpu::ActivationKernels<A>>().rotate(*this, x, runs, frequencies, pairing, workspace);
    }

    template <class C>
    void convert(MatrixView<const Activation<C>> keys, MatrixView<const Activation<C>> values, Index head_dim,
                 MatrixView<CachedElement<C>> cached_keys, MatrixView<CachedElement<C>> cached_values,
                 Workspace& workspace) const {
        kernels<cpu::CacheKernels<C>>().convert(*this, keys, values, head_dim, cached_keys, cached_values, workspace);
    }

    template <class C>
    void attend(MatrixView<const Activation<C>> queries, MatrixView<const CachedElement<C>> keys,
                MatrixView<const CachedElement<C>> values, std::span<const CachedRun<C>> runs, const Shape& shape,
                MatrixView<Activation<C>> out, Workspace& workspace) const {
        kernels<cpu::CacheKernels<C>>().attend(*this, queries, keys, values, runs, shape, out, workspace);
    }

    template <class A>
    void swiglu(MatrixView<const A> gate, MatrixView<const A> up, MatrixView<A> out, Workspace& workspace) const {
        kernels<cpu::ActivationKernels<A>>().swiglu(*this, gate, up, out, workspace);
    }

  private:
    static const cpu::Kernels& kernels_of(InstructionSet set) {
        require(is_supported(set), "the instruction set ", name(set), " was asked for, and this processor's best is ",
                name(best_instruction_set()));
        switch (set) {
            case InstructionSet::avx512_dot:
                return cpu::mistral_kernels_avx512_dot;
            case InstructionSet::avx2:
                return cpu::mistral_kernels_avx2;
            default:
                return cpu::mistral_kernels_baseline;
        }
    }

    template <class K>
    [[nodiscard]] const K& kernels() const {
        return std::get<K>(*kernels_);
    }

    InstructionSet instruction_set_;
    const cpu::Kernels* kernels_;
};

static_assert(Device<BasicCpu<Dispatched>>);

}  // namespace mistral

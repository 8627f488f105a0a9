// The kernels for one instruction set, as the table MISTRAL_KERNELS. The compiler's flags decide which set that is,
// and are to mean MISTRAL_INSTRUCTION_SET.

#include <mistral/device/cpu/cpu.hpp>
#include <mistral/device/cpu/kernels.hpp>

#include <concepts>
#include <tuple>

namespace mistral::cpu {
namespace {

static_assert(std::same_as<NativeInstructionSet, MISTRAL_INSTRUCTION_SET>,
              "mistral::dispatch is for programs that are compiled for older processors than these kernels: "
              "leave out -march=native");

using NativeCpu = BasicCpu<NativeInstructionSet>;

template <class K>
constexpr K table;

template <class A>
constexpr ActivationKernels<A> table<ActivationKernels<A>>{
    .rms_norm = [](const CpuBase& cpu, auto... arguments) { NativeCpu(cpu).rms_norm(arguments...); },
    .rotate = [](const CpuBase& cpu, auto... arguments) { NativeCpu(cpu).rotate(arguments...); },
    .swiglu = [](const CpuBase& cpu, auto... arguments) { NativeCpu(cpu).swiglu(arguments...); },
};

template <class S>
constexpr WeightKernels<S> table<WeightKernels<S>>{
    .multiply = [](const CpuBase& cpu, auto... arguments) { NativeCpu(cpu).multiply(arguments...); },
};

template <class Q>
constexpr QuantizationKernels<Q> table<QuantizationKernels<Q>>{
    .quantize = [](const CpuBase& cpu, auto... arguments) { return NativeCpu(cpu).quantize<Q>(arguments...); },
};

template <class C>
constexpr CacheKernels<C> table<CacheKernels<C>>{
    .convert = [](const CpuBase& cpu, auto... arguments) { NativeCpu(cpu).convert<C>(arguments...); },
    .attend = [](const CpuBase& cpu, auto... arguments) { NativeCpu(cpu).attend(arguments...); },
};

template <class... K>
constexpr std::tuple<K...> tables(const std::tuple<K...>*) {
    return {table<K>...};
}

}  // namespace

// Constant-initialised: no code of this file may run before the processor is known to have the instructions.
constinit const Kernels MISTRAL_KERNELS = tables(static_cast<const Kernels*>(nullptr));

}  // namespace mistral::cpu

#pragma once

#include <mistral/device/cpu/cpu.hpp>

#include <concepts>

/// The instruction sets that this build can be tested with, the widest last. They differ in the size of their vectors;
/// all have fused multiplications where the compiler may use them.
#if defined(__AVX512F__)
#define MISTRAL_TEST_ARCHITECTURES xsimd::fma3<xsimd::avx2>, xsimd::default_arch, mistral::NativeInstructionSet
#else
#define MISTRAL_TEST_ARCHITECTURES mistral::NativeInstructionSet
#endif

/// Whether `Cpu` multiplies by tiles here, unless it is told not to.
[[nodiscard]] inline bool has_tiles() {
    return std::same_as<mistral::NativeInstructionSet, mistral::Avx512Dot> && mistral::cpu::amx_is_available();
}

/// The processor by instructions that leave activations in float beside bfloat16 weights.
using FloatCpu = mistral::BasicCpu<xsimd::default_arch>;

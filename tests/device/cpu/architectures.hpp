#pragma once

#include <mistral/device/cpu/cpu.hpp>

/// The instruction sets that this build can be tested with, the widest last. They differ in the size of their vectors;
/// all have fused multiplications where the compiler may use them.
#if defined(__AVX512F__)
#define MISTRAL_TEST_ARCHITECTURES xsimd::fma3<xsimd::avx2>, xsimd::default_arch, mistral::NativeInstructionSet
#else
#define MISTRAL_TEST_ARCHITECTURES mistral::NativeInstructionSet
#endif

/// The processor by instructions that leave activations in float beside bfloat16 weights.
using FloatCpu = mistral::BasicCpu<xsimd::default_arch>;

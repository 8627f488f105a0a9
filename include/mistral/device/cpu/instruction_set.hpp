#pragma once

#include <mistral/base/intrinsics.hpp>

#include <xsimd/config/xsimd_arch.hpp>

/// The instruction sets that kernels are written for: xsimd's architectures, and those that go beyond them.
namespace mistral {

/// AVX-512 with dot products of bfloat16 pairs and of 8-bit quadruples: Zen 4, Cooper Lake, Sapphire Rapids and later.
struct Avx512Dot {};

/// The same without dot products of bfloat16. Programs do not name it: a device with Avx512Dot finds at run time where
/// float is faster.
struct Avx512Float {};

/// Beside Avx512Dot, tiles of bfloat16 and of bytes: Sapphire Rapids and later. Programs do not name it: a device with
/// Avx512Dot finds at run time whether it may use tiles, and does for what they are good for.
struct Amx {};

/// The architecture whose vectors xsimd gives to an instruction set.
template <class InstructionSet>
struct VectorsOf {
    using type = InstructionSet;
};
template <>
struct VectorsOf<Avx512Dot> {
    using type = xsimd::avx512bw;
};
template <>
struct VectorsOf<Avx512Float> {
    using type = xsimd::avx512bw;
};

/// The best that the processor offers at run time: see dispatched_cpu.hpp.
struct Dispatched {};

/// The instruction set that programs compute with unless they name another: the best that the translation unit is
/// compiled for. With `mistral::dispatch` it is the processor's best.
#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#define MISTRAL_HAS_AVX512_DOT
#endif
#if defined(MISTRAL_DISPATCH)
using NativeInstructionSet = Dispatched;
#elif defined(MISTRAL_HAS_AVX512_DOT)
using NativeInstructionSet = Avx512Dot;
#else
using NativeInstructionSet = xsimd::default_arch;
#endif

}  // namespace mistral

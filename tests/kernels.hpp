#pragma once

#include <mistral/device/cpu/cpu.hpp>

#include <span>

/// The processor's kernels, which are compiled once for all tests, in kernels.cpp: every other file that includes this
/// header only parses them. The macros give what stands before `template`.
#define MISTRAL_TEST_ATTENTION_OF(prefix, Set, C)                                                               \
    prefix template void attend<Set, C>(ThreadPool&, MatrixView<const Activation<C>>,                           \
                                        MatrixView<const CachedElement<C>>, MatrixView<const CachedElement<C>>, \
                                        std::span<const CachedRun<C>>, const Shape&, MatrixView<Activation<C>>, \
                                        Cpu::Workspace&);

#define MISTRAL_TEST_PRODUCTS_OF(prefix, Set, S)                                                                    \
    prefix template void multiply<Set, S>(ThreadPool&, MatrixView<const Activation<S>>,                             \
                                          std::span<const Product<HostMatrix<S>, Activation<S>>>, Update, CoreKind, \
                                          Cpu::Workspace&);

#define MISTRAL_TEST_KERNELS_OF(prefix, Set, S) \
    MISTRAL_TEST_PRODUCTS_OF(prefix, Set, S)    \
    MISTRAL_TEST_ATTENTION_OF(prefix, Set, S)

#define MISTRAL_TEST_QUANTIZED_KERNELS_OF(prefix, bits, Q)                                                      \
    prefix template void multiply<NativeInstructionSet, bits>(ThreadPool&, MatrixView<const float>,             \
                                                              std::span<const Product<PackedMatrix<Q>, float>>, \
                                                              Update, CoreKind, Cpu::Workspace&);

#define MISTRAL_TEST_KERNELS(prefix)                                \
    MISTRAL_TEST_ATTENTION_OF(prefix, NativeInstructionSet, double) \
    MISTRAL_TEST_KERNELS_OF(prefix, NativeInstructionSet, float)    \
    MISTRAL_TEST_KERNELS_OF(prefix, NativeInstructionSet, half)     \
    MISTRAL_TEST_KERNELS_OF(prefix, NativeInstructionSet, bfloat16) \
    MISTRAL_TEST_ATTENTION_OF(prefix, NativeInstructionSet, Q8)     \
    MISTRAL_TEST_QUANTIZED_KERNELS_OF(prefix, 8, Q8)                \
    MISTRAL_TEST_QUANTIZED_KERNELS_OF(prefix, 15, Q8)               \
    MISTRAL_TEST_QUANTIZED_KERNELS_OF(prefix, 8, Q4)                \
    MISTRAL_TEST_QUANTIZED_KERNELS_OF(prefix, 15, Q4)

// Those by tiles or in float, and those of FloatCpu, where they are others.
#if defined(MISTRAL_HAS_AVX512_DOT)
#define MISTRAL_TEST_TILES_OF(prefix, Matrix)                                    \
    prefix template void multiply_by_tiles(ThreadPool&, MatrixView<const float>, \
                                           std::span<const Product<Matrix, float>>, Update, Cpu::Workspace&);
#define MISTRAL_TEST_PANEL_TILES_OF(prefix, bits, Q)                                                              \
    prefix template void multiply_panels_by_tiles<bits>(ThreadPool&, MatrixView<const float>,                     \
                                                        std::span<const Product<PackedMatrix<Q>, float>>, Update, \
                                                        CoreKind, Cpu::Workspace&);
#define MISTRAL_TEST_TILES(prefix)                          \
    MISTRAL_TEST_PRODUCTS_OF(prefix, Avx512Float, bfloat16) \
    MISTRAL_TEST_ATTENTION_OF(prefix, Amx, bfloat16)        \
    MISTRAL_TEST_ATTENTION_OF(prefix, Amx, Q8)              \
    MISTRAL_TEST_TILES_OF(prefix, HostMatrix<bfloat16>)     \
    MISTRAL_TEST_TILES_OF(prefix, PackedMatrix<Q8>)         \
    MISTRAL_TEST_TILES_OF(prefix, PackedMatrix<Q4>)         \
    MISTRAL_TEST_PANEL_TILES_OF(prefix, 8, Q8)              \
    MISTRAL_TEST_PANEL_TILES_OF(prefix, 15, Q8)             \
    MISTRAL_TEST_PANEL_TILES_OF(prefix, 8, Q4)              \
    MISTRAL_TEST_PANEL_TILES_OF(prefix, 15, Q4)
#define MISTRAL_TEST_FLOAT_KERNELS(prefix)                         \
    MISTRAL_TEST_ATTENTION_OF(prefix, xsimd::default_arch, double) \
    MISTRAL_TEST_KERNELS_OF(prefix, xsimd::default_arch, float)    \
    MISTRAL_TEST_KERNELS_OF(prefix, xsimd::default_arch, half)     \
    MISTRAL_TEST_KERNELS_OF(prefix, xsimd::default_arch, bfloat16) \
    MISTRAL_TEST_ATTENTION_OF(prefix, xsimd::default_arch, Q8)
#else
#define MISTRAL_TEST_TILES(prefix)
#define MISTRAL_TEST_FLOAT_KERNELS(prefix)
#endif

namespace mistral::cpu {
MISTRAL_TEST_KERNELS(extern)
MISTRAL_TEST_TILES(extern)
MISTRAL_TEST_FLOAT_KERNELS(extern)
}  // namespace mistral::cpu

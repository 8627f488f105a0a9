#pragma once

#include <mistral/device/cpu/simd.hpp>

/// The instruction sets that this build can be tested with, the widest last. They differ in the size of their vectors.
#if defined(__AVX512F__)
#define MISTRAL_TEST_ARCHITECTURES xsimd::sse2, xsimd::avx2, xsimd::default_arch
#elif defined(__AVX2__)
#define MISTRAL_TEST_ARCHITECTURES xsimd::sse2, xsimd::default_arch
#else
#define MISTRAL_TEST_ARCHITECTURES xsimd::default_arch
#endif

#pragma once

/// The processor's intrinsics, where it has any that the library uses.
#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__)
#define MISTRAL_X86

// GCC 12 warns of "uninitialised" values that its own AVX-512 header leaves so on purpose (GCC bug 105593). It looks at
// the state of the warning where the header was first included, so this comes before whatever includes it too.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

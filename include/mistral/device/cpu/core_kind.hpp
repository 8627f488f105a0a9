#pragma once

#include <mistral/base/intrinsics.hpp>

#if defined(MISTRAL_X86) && defined(__GNUC__)
#include <cpuid.h>
#endif

namespace mistral::cpu {

/// How the cores of a processor want to be fed, as was measured. It changes no result.
enum class CoreKind {
    common,  ///< the hardware sees what one token needs next, and is asked ahead for several: AMD's up to Zen 4
    zen5,    ///< multiplies twice as fast as L2 feeds it, and forgets what it is asked for while L1 waits for much
    intel,   ///< is asked ahead for everything, in several streams: alone it reads two thirds of what it can
};

[[nodiscard]] inline CoreKind core_kind_of_processor() {
#if defined(MISTRAL_X86) && defined(__GNUC__)
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid(0, &eax, &ebx, &ecx, &edx) == 0) return CoreKind::common;
    if (ebx == signature_INTEL_ebx && ecx == signature_INTEL_ecx && edx == signature_INTEL_edx) return CoreKind::intel;
    if (ebx == signature_AMD_ebx && ecx == signature_AMD_ecx && edx == signature_AMD_edx &&
        __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) {
        constexpr unsigned zen5_family = 0x1a;  // the base family 15 and what is added to it
        if (((eax >> 8) & 0xf) + ((eax >> 20) & 0xff) >= zen5_family) return CoreKind::zen5;
    }
#endif
    return CoreKind::common;
}

/// Whether the processor multiplies faster in float than by its dot products of bfloat16, if it has any: Intel's cores
/// without AMX do. One of Emerald Rapids that hides AMX takes three cycles for a dot product of 32 pairs, in which it
/// does 96 products of float; those that show it take half of one.
[[nodiscard]] inline bool multiplies_faster_in_float() {
#if defined(MISTRAL_X86) && defined(__GNUC__)
    constexpr unsigned amx_of_bfloat16 = 1u << 22;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return core_kind_of_processor() == CoreKind::intel && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) &&
           (edx & amx_of_bfloat16) == 0;
#else
    return false;
#endif
}

}  // namespace mistral::cpu

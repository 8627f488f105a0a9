#pragma once

#include <mistral/base/intrinsics.hpp>

#if defined(MISTRAL_X86) && defined(__GNUC__)
#include <cpuid.h>
#endif

namespace mistral::cpu {

/// Who brings the weights that a few tokens meet from memory before they are wanted. It changes no result.
enum class Prefetching {
    hardware,  ///< the processor, which sees what comes next: instructions only disturb it
    software,  ///< kernels, which ask for lines some time before, and for several streams of them at once
};

/// What was measured to be faster: a core of Intel's alone reads two thirds of what it does when it is asked, a core of
/// AMD's more than when it is.
[[nodiscard]] inline Prefetching prefetching_of_processor() {
#if defined(MISTRAL_X86) && defined(__GNUC__)
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == signature_INTEL_ebx && ecx == signature_INTEL_ecx &&
        edx == signature_INTEL_edx)
        return Prefetching::software;
#endif
    return Prefetching::hardware;
}

}  // namespace mistral::cpu

#pragma once

#include <mistral/base/types.hpp>
#include <mistral/device/cpu/instruction_set.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/// Advanced Matrix Extensions: Sapphire Rapids and later (Intel's Software Developer's Manual, volume 1, chapter 18).
/// Eight registers hold tiles of up to 16 rows of 64 bytes, and one instruction multiplies two of them. They come on
/// top of Avx512Dot where the processor has them, which is asked at run time, as systems grant them to a process.
namespace mistral::cpu {

/// Whether this process may use tiles of bfloat16 and of bytes. Asks the system, which then saves more registers of the
/// process's threads, and wants larger alternate stacks for signals.
[[nodiscard]] inline bool amx_is_available() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr unsigned tiles = 1u << 24, of_bfloat16 = 1u << 22, of_bytes = 1u << 25,
                       all = tiles | of_bfloat16 | of_bytes;
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & all) == all &&
           ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

inline constexpr Index amx_rows = 16;     ///< of a tile, at most
inline constexpr Index amx_columns = 16;  ///< elements of 32 bits, pairs of bfloat16 or quads of bytes in a row
inline constexpr Index amx_tile = amx_rows * amx_columns;  ///< elements of 32 bits

#if defined(MISTRAL_HAS_AVX512_DOT)
/// What is loaded is wanted again; or soon not any more, so that it should not take the place of something else in L1.
enum class AmxUse { again, once };

/// The registers of this thread, while it lives: 0 … 3 hold sums [rows, 16] of binary32, 4 and 5 left operands [rows,
/// 16 pairs], 6 and 7 right ones [16 pairs, 16]; or integers of 32 bits, and quads of bytes. In assembly, as then no
/// compiler flag is needed beyond those of Avx512Dot.
class AmxRegisters {
  public:
    /// For left operands of at most 16 rows; those of register 5, and their sums in 2 and 3, may have another number.
    explicit AmxRegisters(Index rows) : AmxRegisters(rows, rows) {}
    AmxRegisters(Index rows, Index second_rows) {
        struct alignas(64) {
            std::uint8_t palette = 1;
            std::uint8_t start_row = 0;
            std::array<std::uint8_t, 14> reserved{};
            std::array<std::uint16_t, 16> row_bytes{};
            std::array<std::uint8_t, 16> rows{};
        } config;
        static_assert(sizeof(config) == 64);
        const Index rows_of[] = {rows, rows, second_rows, second_rows, rows, second_rows, amx_rows, amx_rows};
        for (std::size_t tile = 0; tile < 8; ++tile) {
            config.row_bytes[tile] = 64;
            config.rows[tile] = static_cast<std::uint8_t>(rows_of[tile]);
        }
        asm volatile("ldtilecfg %0" ::"m"(config));
    }
    ~AmxRegisters() { asm volatile("tilerelease"); }
    AmxRegisters(const AmxRegisters&) = delete;
    AmxRegisters& operator=(const AmxRegisters&) = delete;

    template <int tile>
    static void clear() {
        asm volatile("tilezero %%tmm%c0" ::"i"(tile));
    }
    /// Rows of 64 bytes, which begin `stride` bytes apart.
    template <int tile, AmxUse use = AmxUse::again>
    static void load(const void* rows, Index stride = 64) {
        if constexpr (use == AmxUse::once)
            asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0" ::"i"(tile), "r"(rows), "r"(stride) : "memory");
        else
            asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(tile), "r"(rows), "r"(stride) : "memory");
    }
    template <int tile>
    static void store(void* rows, Index stride = 64) {
        asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(tile), "r"(rows), "r"(stride) : "memory");
    }
    /// sums(i, j) += the dot product of row i of the left operand with column j of the right one. The 16 products of
    /// the pairs' first elements are added one after the other, those of the second likewise, the two sums then, and
    /// the result to `sums`, each time rounded to the nearest; subnormal numbers count as zero. So which operand is
    /// left does not matter to the bits.
    template <int sums, int left, int right>
    static void multiply_add() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(left), "i"(right));
    }
    /// The same of quads of bytes, signed ones on the left, unsigned ones on the right, and sums of 32 bits, exact.
    template <int sums, int left, int right>
    static void multiply_add_bytes() {
        asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(left), "i"(right));
    }
};
#endif

}  // namespace mistral::cpu

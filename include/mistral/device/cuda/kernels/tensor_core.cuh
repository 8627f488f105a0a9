#pragma once

#include <mistral/scalar/scalar.hpp>

#include <cuda_runtime.h>

#include <concepts>

/// The instructions that feed tensor cores, from compute capability 8.0 on (PTX ISA, "Warp-level matrix instructions").
/// All lanes of a warp execute them together. Elements are half or bfloat16, two to a register, sums are float. In the
/// numbers of rows and columns below, a lane's group is lane / 4, and its place lane % 4.
namespace mistral::cuda {

/// Loads four matrices [8, 8], whose rows are 16 bytes each at the addresses in shared memory that lanes give: lane
/// 8 m + r that of row r of matrix m. Register m gets elements 2 place and 2 place + 1 of the row `group` of matrix m.
__device__ inline void load_matrices(unsigned (&matrices)[4], const void* row) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
}

/// The same of the transposed matrices: rows 2 place and 2 place + 1 of the column `group`.
__device__ inline void load_transposed_matrices(unsigned (&matrices)[4], const void* row) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
}

/// sums [16, 8] += a [16, 16] b [16, 8]. Of a, registers hold the quarters [8, 8]: upper left, lower left, upper right,
/// lower right, as load_matrices does; of b, b_upper and b_lower hold the rows 0 and 8 on, as load_matrices does with
/// the columns for rows. sums: columns 2 place and 2 place + 1 of row `group`, then of row group + 8.
template <class C>
__device__ void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b_upper, unsigned b_lower) {
    static_assert(std::same_as<C, half> || std::same_as<C, bfloat16>);
    if constexpr (std::same_as<C, bfloat16>)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_upper), "r"(b_lower));
    else
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_upper), "r"(b_lower));
}

/// Both rounded to nearest, ties to even; `low` in the lower half.
template <class C>
[[nodiscard]] __device__ unsigned round_pair(float low, float high) {
    static_assert(std::same_as<C, half> || std::same_as<C, bfloat16>);
    unsigned pair;
    if constexpr (std::same_as<C, bfloat16>)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/// 2^x to about 22 bits, in one instruction.
[[nodiscard]] __device__ inline float fast_exp2(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(x));
    return power;
}

}  // namespace mistral::cuda

#pragma once

#include <mistral/base/aligned_buffer.hpp>
#include <mistral/base/intrinsics.hpp>
#include <mistral/device/cpu/amx.hpp>
#include <mistral/device/cpu/instruction_set.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/cpu/thread_pool.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

/// What the machine can do at most, measured by loops that do nothing else, so that a row's speed can be told as a
/// fraction of it. Frequencies, neighbours and memory differ from run to run: every run probes anew.
namespace bench {

using mistral::Index;

/// Per second, by all threads together. A multiplication and an addition are two operations.
struct Limits {
    double read_bandwidth = 0;  ///< bytes
    double float32 = 0;         ///< operations of fused multiply-add
    double bfloat16 = 0;        ///< of products of bfloat16, by tiles where there are any; float32's where no such
                                ///< instruction is faster
    bool has_tiles = false;     ///< of bfloat16
    double integer = 0;         ///< of dot products of quadruples of 8 bits, with AVX2 pairs of 16; float32's likewise
};

/// Seconds that the fastest pass takes, of those that fit into half a second: what disturbs a pass only makes it
/// slower.
template <class Pass>
double fastest(Pass pass) {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::milliseconds(500);
    auto best = Clock::duration::max();
    for (auto start = Clock::now(), stop = start; start < end; start = stop) {
        pass();
        stop = Clock::now();
        best = std::min(best, stop - start);
    }
    return std::chrono::duration<double>(best).count();
}

/// Memory in huge pages, where the system has them: address translation is no part of the limit.
class HugePages {
  public:
    explicit HugePages(Index bytes) : memory_(bytes + page) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
        data_ = memory_.data() + (static_cast<std::uintptr_t>(page) - address % page) % page;
#if defined(__linux__)
        ::madvise(data_, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
#endif
        std::memset(data_, 1, static_cast<std::size_t>(bytes));
    }

    [[nodiscard]] const std::byte* data() const {
        return data_;
    }

  private:
    static constexpr Index page = 2 * 1024 * 1024;

    mistral::AlignedBuffer<std::byte> memory_;
    std::byte* data_ = nullptr;
};

/// Bytes per second that the threads read from a buffer far larger than caches. Each reads several long streams at
/// once, two or eight: which is faster differs between processors, and is tried at first.
class ReadProbe {
  public:
    explicit ReadProbe(Index threads) : pool_(threads), memory_(blocks * block_bytes) {
        constexpr int passes = 5;
        double two = 0, eight = 0;
        for (int pass = 0; pass < passes; ++pass) {
            two = std::max(two, sample<2>());
            eight = std::max(eight, sample<8>());
        }
        reads_eight_ = eight > two;
    }

    /// Of one pass, which takes about ten milliseconds.
    [[nodiscard]] double sample() { return reads_eight_ ? sample<8>() : sample<2>(); }

  private:
    using Vector = xsimd::batch<std::uint64_t>;

    static constexpr Index block_bytes = 2 * 1024 * 1024;
    static constexpr Index blocks = 256;

    template <Index streams>
    double sample() {
        constexpr Index stream_bytes = block_bytes / streams;
        const auto start = std::chrono::steady_clock::now();
        pool_.for_each(blocks, [&](Index, Index block) noexcept {
            const std::byte* data = memory_.data() + block * block_bytes;
            Vector sums[streams];
            for (Vector& sum : sums) sum = Vector(std::uint64_t{0});
            for (Index i = 0; i < stream_bytes; i += static_cast<Index>(sizeof(Vector)))
                for (Index s = 0; s < streams; ++s)
                    sums[s] = sums[s] +
                              Vector::load_aligned(reinterpret_cast<const std::uint64_t*>(data + s * stream_bytes + i));
            benchmark::DoNotOptimize(sums);
        });
        const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
        return static_cast<double>(blocks * block_bytes) / time.count();
    }

    mistral::ThreadPool pool_;
    HugePages memory_;
    bool reads_eight_ = false;
};

/// Operations per second of `step`, an instruction or two that add `operations` to a vector, in so many independent
/// sums that no instruction waits for the one before.
template <class Vector, class Step>
double peak(mistral::ThreadPool& pool, Index operations, Vector zero, Step step) {
    constexpr std::size_t sums_at_once = 12;
    constexpr Index steps = 20000;
    const Index tasks = 16 * pool.threads();
    const double seconds = fastest([&] {
        pool.for_each(tasks, [&](Index, Index) noexcept {
            Vector sums[sums_at_once];
            mistral::cpu::unroll<sums_at_once>([&](auto s) { sums[s] = zero; });
            for (Index i = 0; i < steps; ++i)
                mistral::cpu::unroll<sums_at_once>([&](auto s) { sums[s] = step(sums[s]); });
            mistral::cpu::unroll<sums_at_once>([&](auto s) { benchmark::DoNotOptimize(Vector(sums[s])); });
        });
    });
    return static_cast<double>(tasks * steps * static_cast<Index>(sums_at_once) * operations) / seconds;
}

#if defined(MISTRAL_HAS_AVX512_DOT)
/// The same of tiles of 16 tokens and 16 outputs.
inline double peak_of_tiles(mistral::ThreadPool& pool) {
    constexpr Index steps = 20000, tiles = 4, operations = 2 * 16 * 16 * 32;
    const Index tasks = 16 * pool.threads();
    std::array<mistral::bfloat16, 16 * 32> ones;
    ones.fill(mistral::bfloat16(1.0f));
    const double seconds = fastest([&] {
        pool.for_each(tasks, [&](Index, Index) noexcept {
            using Registers = mistral::cpu::AmxRegisters;
            const Registers registers(mistral::cpu::amx_rows);
            Registers::load<4>(ones.data());
            Registers::load<5>(ones.data());
            Registers::load<6>(ones.data());
            Registers::load<7>(ones.data());
            for (Index i = 0; i < steps; ++i) {
                Registers::multiply_add<0, 4, 6>();
                Registers::multiply_add<1, 4, 7>();
                Registers::multiply_add<2, 5, 6>();
                Registers::multiply_add<3, 5, 7>();
            }
        });
    });
    return static_cast<double>(tasks * steps * tiles * operations) / seconds;
}
#endif

/// Measures all limits with `threads` threads, 0 for one per core; takes about two seconds.
[[nodiscard]] inline Limits probe(Index threads) {
    mistral::ThreadPool pool(threads);
    Limits limits;
    {
        ReadProbe reading(threads);
        for (int pass = 0; pass < 30; ++pass) limits.read_bandwidth = std::max(limits.read_bandwidth, reading.sample());
    }
    using Floats = xsimd::batch<float>;
    float one = 1;
    benchmark::DoNotOptimize(one);
    limits.float32 = peak(pool, 2 * static_cast<Index>(Floats::size), Floats(0.0f),
                          [x = Floats(one)](Floats sum) { return xsimd::fma(sum, x, x); });
    limits.bfloat16 = limits.integer = limits.float32;
#if defined(MISTRAL_HAS_AVX512_DOT)
    const __m512i ones = _mm512_set1_epi8(1);
    const double dots = peak(pool, 64, _mm512_setzero_ps(), [ones](__m512 sum) {
        asm("vdpbf16ps %1, %1, %0" : "+v"(sum) : "v"(ones));
        return sum;
    });
    limits.bfloat16 = std::max(limits.float32, dots);
    limits.integer = peak(pool, 128, _mm512_setzero_si512(), [ones](__m512i sum) {
        asm("vpdpbusd %1, %1, %0" : "+v"(sum) : "v"(ones));
        return sum;
    });
    limits.has_tiles = mistral::cpu::amx_is_available();
    if (limits.has_tiles) limits.bfloat16 = peak_of_tiles(pool);
#elif defined(__AVX2__)
    const __m256i ones = _mm256_set1_epi16(1);
    limits.integer = peak(pool, 32, _mm256_setzero_si256(), [ones](__m256i sum) {
        __m256i products;
        asm("vpmaddwd %2, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(ones));
        return sum;
    });
#endif
    return limits;
}

}  // namespace bench

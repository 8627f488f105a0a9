#include <mistral/base/aligned_buffer.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <utility>

using namespace mistral;

TEST_CASE("a buffer is aligned to a cache line and knows its size") {
    for (const Index size : {1, 3, 64, 1000}) {
        AlignedBuffer<short> buffer(size);
        CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64 == 0);
        CHECK(buffer.size() == size);
        CHECK(buffer.bytes() == 2 * size);
    }
    CHECK(AlignedBuffer<float>(0).data() == nullptr);
}

TEST_CASE("sizes that cannot be are refused before anything is allocated") {
    CHECK_THROWS_AS(AlignedBuffer<float>(-1), Error);
    const Index huge = std::numeric_limits<Index>::max();
    CHECK_THROWS_AS((void)AlignedBuffer<double>(huge), std::bad_alloc);
}

TEST_CASE("a large buffer of huge pages begins with one, a small one wastes none") {
    AlignedBuffer<std::byte> large(5'000'000, Pages::huge);
    CHECK(reinterpret_cast<std::uintptr_t>(large.data()) % (1u << 21) == 0);
    large.data()[4'999'999] = std::byte{7};
    const AlignedBuffer<std::byte> moved = std::move(large);
    CHECK(moved.data()[4'999'999] == std::byte{7});
    AlignedBuffer<std::byte> small(1000, Pages::huge);
    CHECK(reinterpret_cast<std::uintptr_t>(small.data()) % 64 == 0);
}

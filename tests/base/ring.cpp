#include <mistral/base/ring.hpp>

#include <doctest/doctest.h>

#include <map>
#include <random>

using namespace mistral;

TEST_CASE("position i lives in slot i mod capacity") {
    const Ring ring(5);
    for (Index position = 0; position < 100; ++position) CHECK(ring.slot(position) == position % 5);
}

TEST_CASE("runs are the resident positions in logical order, whatever was appended and rewound") {
    std::mt19937 random(7);
    for (int trial = 0; trial < 200; ++trial) {
        const Index capacity = 1 + static_cast<Index>(random() % 9);
        Ring ring(capacity);
        std::map<Index, Index> slots;  // slot -> position, by writing one position at a time
        for (int step = 0; step < 30; ++step) {
            if (random() % 4 == 0) {
                const Index back = static_cast<Index>(random() % static_cast<unsigned>(ring.size() + 1));
                ring.rewind_to(ring.next_position() - back);
            } else {
                const Index count = static_cast<Index>(random() % 25);
                for (Index i = 0; i < count; ++i)
                    slots[(ring.next_position() + i) % capacity] = ring.next_position() + i;
                ring.advance(count);
            }
            REQUIRE(ring.size() <= capacity);
            Index expected = ring.first_resident();
            bool right = true;
            for (const SlotRun& run : ring.runs(ring.first_resident()))
                for (Index i = 0; i < run.count; ++i, ++expected)
                    right = right && run.position + i == expected && slots[run.slot + i] == expected;
            CHECK(right);
            CHECK(expected == ring.next_position());
        }
    }
}

TEST_CASE("what was overwritten stays lost after a rewind") {
    Ring ring(4);
    ring.advance(10);
    CHECK(ring.first_resident() == 6);
    ring.rewind_to(7);
    CHECK(ring.size() == 1);
    ring.advance(2);
    CHECK(ring.first_resident() == 6);
    CHECK(ring.size() == 3);
}

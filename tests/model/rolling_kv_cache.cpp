#include <mistral/model/rolling_kv_cache.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>
#include <random>
#include <vector>

using namespace mistral;

namespace {

using FloatCache = RollingKVCache<float, Cpu>;

/// A number that tells a position from those around it, and that Q8 holds to less than one half.
float label(Index position) {
    return static_cast<float>(1 + position % 200);
}

/// Keys of one head and one element, their position's label, and values that are its negative.
template <class C>
void append_positions(RollingKVCache<C, Cpu>& cache, Index count) {
    Cpu::Workspace workspace;
    std::vector<float> labels, negatives;
    for (Index i = 0; i < count; ++i) {
        labels.push_back(label(cache.next_position() + i));
        negatives.push_back(-labels.back());
    }
    constexpr Index size = CachedRow<C>::size(1);
    std::vector<CachedElement<C>> keys(static_cast<std::size_t>(count * size)), values(keys.size());
    Cpu(1).convert<C>({labels.data(), count, 1}, {negatives.data(), count, 1}, 1, {keys.data(), count, size},
                      {values.data(), count, size}, workspace);
    cache.append({keys.data(), count, size}, {values.data(), count, size}, workspace);
}

/// The label that a row of one element holds.
template <class C>
float number(const CachedElement<C>* row) {
    if constexpr (std::same_as<C, Q8>)
        return std::round(static_cast<float>(row[0]) * CachedRow<Q8>::scale(row, 1));
    else
        return row[0];
}

/// Whether the runs hold the positions first … next_position() - 1 in order, each with its own key and value.
template <class C>
bool holds(RollingKVCache<C, Cpu>& cache, Index first) {
    Index expected = first;
    const Window window{cache.next_position() + 1 - first};
    for (const auto& run : cpu::key_value_runs<C>({}, {}, cache.next_run(0), window))
        for (Index i = 0; i < run.count; ++i, ++expected)
            if (run.position + i != expected || number<C>(run.keys + i * run.position_stride) != label(expected) ||
                number<C>(run.values + i * run.position_stride) != -label(expected))
                return false;
    return expected == cache.next_position();
}

}  // namespace

TEST_CASE_TEMPLATE("appends of any size keep the newest positions, in order, whatever the window", C, float, Q8) {
    std::mt19937 random(3);
    for (int trial = 0; trial < 300; ++trial) {
        const Index window = 1 + static_cast<Index>(random() % 9);
        const Index rewind = static_cast<Index>(random() % 4);
        RollingKVCache<C, Cpu> cache(Cpu(1), {.window = window, .kv_heads = 1, .head_dim = 1}, {.rewind = rewind});
        REQUIRE(cache.capacity() == window + rewind);
        bool right = true;
        Index first = 0;
        for (int step = 0; step < 20; ++step) {
            append_positions(cache, static_cast<Index>(random() % 30));
            first = std::max(first, cache.next_position() - cache.capacity());
            right = right && cache.first_resident() == first && holds(cache, first);
            if (random() % 3 == 0) {
                const Index position = cache.next_position() - static_cast<Index>(random() % 5);
                const bool possible =
                    position >= 0 && (cache.first_resident() == 0 || position - window + 1 >= cache.first_resident());
                right = right && cache.can_rewind_to(position) == possible;
                if (possible) cache.rewind_to(position);
            }
        }
        CHECK(right);
    }
}

TEST_CASE("positions and slots are those that Mistral's own reference documents") {
    const auto golden = nlohmann::json::parse(std::ifstream(MISTRAL_TEST_DATA "/numeric/rolling_cache.json"));
    const Index window = golden["window"];
    std::size_t token = 0;
    std::size_t cached = 0;
    for (std::size_t sequence = 0; sequence < golden["seqlens"].size(); ++sequence) {
        FloatCache cache(Cpu(1), {.window = window, .kv_heads = 1, .head_dim = 1});
        append_positions(cache, golden["seqpos"][sequence]);
        const Index before = cache.next_position();
        append_positions(cache, golden["seqlens"][sequence]);
        for (Index position = before; position < cache.next_position(); ++position, ++token) {
            CHECK(golden["positions"][token] == position);
            CHECK((golden["to_cache_mask"][token] == 1) == (position >= cache.first_resident()));
            if (position < cache.first_resident()) continue;
            const Index slot = golden["cache_positions"][cached++].get<Index>() - static_cast<Index>(sequence) * window;
            CHECK(cache.next_run(0).store.keys[slot] == label(position));
        }
    }
    CHECK(token == golden["positions"].size());
    CHECK(cached == golden["cache_positions"].size());
}

TEST_CASE("memory is the paper's: 8 times less at 32 768 tokens, 4 096 bytes per token and layer") {
    const Shape mistral_7b{.window = 4096, .kv_heads = 8, .head_dim = 128};
    const RollingKVCache<bfloat16, Cpu> rolling(Cpu(1), mistral_7b);
    const RollingKVCache<bfloat16, Cpu> full(Cpu(1), {.window = no_window, .kv_heads = 8, .head_dim = 128},
                                             {.context = 32'768});
    CHECK(full.bytes() == 8 * rolling.bytes());
    CHECK(rolling.bytes() == 4096 * 4096);  // a window of 4 096 tokens at 4 096 bytes
    const RollingKVCache<bfloat16, Cpu> multi_head(Cpu(1), {.window = 4096, .kv_heads = 32, .head_dim = 128});
    CHECK(multi_head.bytes() == 4096 * 16'384);
    const RollingKVCache<Q8, Cpu> in_8_bits(Cpu(1), mistral_7b);
    CHECK(in_8_bits.bytes() == 2 * 8 * 4096 * (128 + 2));
}

TEST_CASE("memory stays constant over 200 000 tokens") {
    FloatCache cache(Cpu(1), {.window = 64, .kv_heads = 1, .head_dim = 1});
    const Index bytes = cache.bytes();
    const float* first_slot = cache.next_run(0).store.keys;
    bool right = true;
    std::mt19937 random(1);
    while (cache.next_position() < 200'000) {
        append_positions(cache, 1 + static_cast<Index>(random() % 100));
        right = right && cache.bytes() == bytes && cache.size() <= 64 && holds(cache, cache.first_resident());
    }
    CHECK(right);
    CHECK(cache.next_run(0).store.keys == first_slot);
}

TEST_CASE("a layer without a window, or with one beyond the context, is full at the context limit") {
    for (const Index window : {no_window, Index{100}}) {
        FloatCache cache(Cpu(1), {.window = window, .kv_heads = 1, .head_dim = 1}, {.context = 10});
        append_positions(cache, 8);
        CHECK(cache.has_room_for(2));
        CHECK_FALSE(cache.has_room_for(3));
        CHECK_THROWS_WITH_AS(append_positions(cache, 3),
                             "the context of 10 positions is full: 8 are taken and 3 more were given", Error);
        CHECK(cache.size() == 8);
        CHECK(cache.can_rewind_to(0));
    }
}

TEST_CASE("a rewind that has lost its past is refused and changes nothing") {
    FloatCache cache(Cpu(1), {.window = 4, .kv_heads = 1, .head_dim = 1}, {.rewind = 2});
    append_positions(cache, 20);
    CHECK(cache.first_resident() == 14);
    CHECK(cache.can_rewind_to(17));
    CHECK_FALSE(cache.can_rewind_to(16));
    CHECK_FALSE(cache.can_rewind_to(21));
    CHECK_FALSE(cache.can_rewind_to(-1));
    CHECK_THROWS_WITH_AS(cache.rewind_to(16),
                         "cannot rewind to position 16: the cache holds positions 14 to 19 and the window is 4", Error);
    CHECK(cache.next_position() == 20);
    cache.rewind_to(17);
    CHECK(holds(cache, 14));
}

TEST_CASE_TEMPLATE("a copy is independent of its original", C, float, Q8) {
    RollingKVCache<C, Cpu> original(Cpu(1), {.window = 5, .kv_heads = 1, .head_dim = 1});
    append_positions(original, 13);
    RollingKVCache<C, Cpu> copy = original;
    append_positions(original, 4);
    CHECK(copy.next_position() == 13);
    CHECK(holds(copy, 8));
    append_positions(copy, 1);
    CHECK(holds(copy, 9));
    CHECK(holds(original, 12));
}

TEST_CASE("shapes that make no sense are refused by name") {
    CHECK_THROWS_WITH_AS(FloatCache(Cpu(1), {.kv_heads = 1, .head_dim = 1}), "the cache's window is not given", Error);
    CHECK_THROWS_WITH_AS(FloatCache(Cpu(1), {.window = 4, .kv_heads = 0, .head_dim = 1}),
                         "kv_heads is 0, expected a positive number", Error);
    CHECK_THROWS_WITH_AS(FloatCache(Cpu(1), {.window = no_window, .kv_heads = 1, .head_dim = 1}),
                         "a cache without a window needs a context limit", Error);
    CHECK_THROWS_AS(FloatCache(Cpu(1), {.window = Index{1} << 60, .kv_heads = 8, .head_dim = 128}), Error);
    CHECK_THROWS_AS(FloatCache(Cpu(1), {.window = 4, .kv_heads = 1, .head_dim = 1}, {.rewind = -1}), Error);
    CHECK_THROWS_AS(FloatCache(Cpu(1), {.window = 4, .kv_heads = 1, .head_dim = 1}, {.context = 0}), Error);
    FloatCache cache(Cpu(1), {.window = 4, .kv_heads = 1, .head_dim = 2});
    const float row[3] = {};
    Cpu::Workspace workspace;
    CHECK_THROWS_AS(cache.append({row, 1, 3}, {row, 1, 3}, workspace), Error);
}

TEST_CASE("a fixed shape needs nothing at run time") {
    const RollingKVCache<half, Cpu, Shape{.window = 16, .kv_heads = 2, .head_dim = 8}> cache(Cpu(1));
    CHECK(cache.capacity() == 16);
    CHECK(cache.bytes() == 2 * 2 * 16 * 8 * 2);
}

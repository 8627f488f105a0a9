#pragma once

#include <mistral/base/ring.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/device.hpp>
#include <mistral/scalar/cached_row.hpp>

#include <array>

namespace mistral {

/// Keys and values of consecutive positions, as rows of a cache of scalar C. The key of head h at position p starts at
/// keys + h * head_stride + (p - position) * position_stride; so does the value.
template <class C>
struct KeyValueRun {
    const CachedElement<C>* keys = nullptr;
    const CachedElement<C>* values = nullptr;
    Index head_stride = 0;
    Index position_stride = 0;
    Index position = 0;
    Index count = 0;
};

namespace cpu {

/// The resident positions from `first` on in logical order, as at most two runs.
template <class C>
[[nodiscard]] std::array<KeyValueRun<C>, 2> runs(const Ring& ring, const KeyValueStore<C>& store, Index first) {
    const auto run = [&store](const SlotRun& slots) {
        return KeyValueRun<C>{.keys = store.keys + slots.slot * store.row_size,
                              .values = store.values + slots.slot * store.row_size,
                              .head_stride = store.capacity * store.row_size,
                              .position_stride = store.row_size,
                              .position = slots.position,
                              .count = slots.count};
    };
    const auto slots = ring.runs(first);
    return {run(slots[0]), run(slots[1])};
}

}  // namespace cpu
}  // namespace mistral

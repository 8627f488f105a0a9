#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/ring.hpp>
#include <mistral/base/types.hpp>
#include <mistral/base/window.hpp>
#include <mistral/device/device.hpp>
#include <mistral/scalar/cached_row.hpp>

#include <algorithm>
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

/// What a run's queries see, in logical order: of its cache at most two runs of slots, then its own keys and values.
template <class C>
[[nodiscard]] std::array<KeyValueRun<C>, 3> key_value_runs(MatrixView<const CachedElement<C>> keys,
                                                           MatrixView<const CachedElement<C>> values,
                                                           const CachedRun<C>& run, Window window) {
    const KeyValueStore<C>& store = run.store;
    const auto cached = [&store](const SlotRun& slots) {
        return KeyValueRun<C>{.keys = store.keys + slots.slot * store.row_size,
                              .values = store.values + slots.slot * store.row_size,
                              .head_stride = store.capacity * store.row_size,
                              .position_stride = store.row_size,
                              .position = slots.position,
                              .count = slots.count};
    };
    Ring ring(store.capacity);
    ring.reset(run.first_resident, run.position);
    const auto slots = ring.runs(std::max(run.first_resident, window.first_visible(run.position)));
    return {cached(slots[0]), cached(slots[1]),
            KeyValueRun<C>{.keys = keys.data(),
                           .values = values.data(),
                           .head_stride = store.row_size,
                           .position_stride = keys.stride(),
                           .position = run.position,
                           .count = run.tokens}};
}

}  // namespace cpu
}  // namespace mistral

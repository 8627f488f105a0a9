#pragma once

#include <mistral/base/types.hpp>

#include <algorithm>
#include <array>
#include <cassert>

namespace mistral {

/// Consecutive positions that lie in consecutive slots.
struct SlotRun {
    Index position = 0;  ///< the first position of the run
    Index slot = 0;      ///< where it lies
    Index count = 0;
};

/// The arithmetic of a rolling buffer, without its memory: position i lives in slot i mod capacity, and the newest
/// `capacity` positions are resident. The one place that relates positions to slots.
class Ring {
  public:
    explicit Ring(Index capacity) : capacity_(capacity) { assert(capacity > 0); }

    [[nodiscard]] Index capacity() const { return capacity_; }
    [[nodiscard]] Index slot(Index position) const { return position % capacity_; }

    /// The position that will be appended next; as many have been appended so far.
    [[nodiscard]] Index next_position() const { return end_; }
    [[nodiscard]] Index first_resident() const { return begin_; }
    [[nodiscard]] Index size() const { return end_ - begin_; }

    /// The resident positions first … next_position() - 1 in logical order, as at most two runs.
    [[nodiscard]] std::array<SlotRun, 2> runs(Index first) const {
        assert(first >= begin_ && first <= end_);
        const Index head = std::min(end_ - first, capacity_ - slot(first));
        return {SlotRun{first, slot(first), head}, SlotRun{first + head, 0, end_ - first - head}};
    }

    /// Counts `positions` more as appended; the oldest beyond the capacity are resident no longer.
    void advance(Index positions) {
        end_ += positions;
        begin_ = std::max(begin_, end_ - capacity_);
    }

    /// Forgets the positions from `position` on. What had been overwritten stays lost.
    void rewind_to(Index position) {
        assert(position >= begin_ && position <= end_);
        end_ = position;
    }

    /// Forgets everything, or starts anew with the positions first … end - 1 resident.
    void reset(Index first = 0, Index end = 0) {
        assert(first >= 0 && first <= end && end - first <= capacity_);
        begin_ = first;
        end_ = end;
    }

  private:
    Index capacity_;
    Index begin_ = 0;
    Index end_ = 0;
};

}  // namespace mistral

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/ring.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/device/device.hpp>
#include <mistral/fwd.hpp>

#include <limits>
#include <span>

namespace mistral {

/// How much a cache holds beyond what its window asks for, and below.
struct CacheLimits {
    /// Positions that a sequence may have. A layer without a window keeps them all, so it needs this limit; a layer
    /// with a window smaller than it rolls and goes on for ever.
    Index context = no_window;
    /// Tokens that can always be taken back, besides the newest one. They cost as many slots more than the window.
    Index rewind = 0;
};

/// The keys and values of one layer and sequence in a rolling buffer: position i lives in slot i mod capacity, with
/// capacity = window + rewind, so that memory stops growing there (Mistral 7B, arXiv:2310.06825, section 2). Keys are
/// stored after rotation. C is the cache's scalar; of the shape it uses window, kv_heads and head_dim.
template <class C, class D, Shape fixed>
class RollingKVCache {
  public:
    using Element = CachedElement<C>;

    /// Throws Error where a number is missing, nonsense, or contradicts the type, and for a window of `no_window`
    /// without a context limit.
    explicit RollingKVCache(D device, const Shape& shape = {}, const CacheLimits& limits = {})
        : device_(std::move(device)),
          shape_(resolve(fixed, shape)),
          ring_(checked_capacity(shape_, limits)),
          keys_(device_.template buffer<Element>(shape_.kv_heads * ring_.capacity() * row_size())),
          values_(device_.template buffer<Element>(shape_.kv_heads * ring_.capacity() * row_size())) {}

    /// Copies the resident entries only.
    RollingKVCache(const RollingKVCache& other)
        : device_(other.device_),
          shape_(other.shape_),
          ring_(other.ring_),
          keys_(device_.template buffer<Element>(other.keys_.size())),
          values_(device_.template buffer<Element>(other.values_.size())) {
        auto workspace = device_.workspace();
        for (const SlotRun& run : ring_.runs(ring_.first_resident()))
            for (Index head = 0; head < shape_.kv_heads; ++head) {
                device_.copy(other.segment(other.keys_.data(), head, run), segment(keys_.data(), head, run), workspace);
                device_.copy(other.segment(other.values_.data(), head, run), segment(values_.data(), head, run),
                             workspace);
            }
        device_.finish(workspace);
    }
    RollingKVCache(RollingKVCache&&) noexcept = default;
    RollingKVCache& operator=(RollingKVCache&&) noexcept = default;
    RollingKVCache& operator=(const RollingKVCache& other) { return *this = RollingKVCache(other); }

    /// window, kv_heads and head_dim.
    [[nodiscard]] const Shape& shape() const { return shape_; }
    /// Slots; the ring repeats itself after as many positions.
    [[nodiscard]] Index capacity() const { return ring_.capacity(); }
    /// Positions whose keys and values are held now.
    [[nodiscard]] Index size() const { return ring_.size(); }
    [[nodiscard]] Index first_resident() const { return ring_.first_resident(); }
    /// The position that the next token will have.
    [[nodiscard]] Index next_position() const { return ring_.next_position(); }
    /// Memory for keys and values in bytes: 2 * kv_heads * capacity rows of head_dim * sizeof(C) bytes, in Q8 of
    /// head_dim + 2.
    [[nodiscard]] Index bytes() const { return 2 * keys_.size() * static_cast<Index>(sizeof(Element)); }

    /// Whether the newest positions take the place of the oldest: not where the context limit is below the window.
    [[nodiscard]] bool rolls() const { return ring_.capacity() >= shape_.window; }

    /// Whether `tokens` more can be appended: always, unless the context limit is below the window.
    [[nodiscard]] bool has_room_for(Index tokens) const {
        return rolls() || tokens <= ring_.capacity() - ring_.next_position();
    }

    /// Whether the sequence can go on from `position` exactly as if nothing had followed it: all that the window of a
    /// query there sees is still resident.
    [[nodiscard]] bool can_rewind_to(Index position) const {
        return position >= 0 && position <= ring_.next_position() &&
               ring_.first_resident() <= Window{shape_.window}.first_visible(position);
    }

    /// Forgets the positions from `position` on. Throws Error where can_rewind_to(position) does not hold.
    void rewind_to(Index position) {
        require(can_rewind_to(position), "cannot rewind to position ", position, ": the cache holds positions ",
                ring_.first_resident(), " to ", ring_.next_position() - 1, " and the window is ", shape_.window);
        ring_.rewind_to(position);
    }

    void clear() { ring_.reset(); }

    /// keys, values [tokens, kv_heads * row_size] of the next positions, as the device's `convert` makes them. Of more
    /// than `capacity` the newest are kept. Throws Error where there is no room for them.
    void append(MatrixView<const Element> keys, MatrixView<const Element> values, typename D::Workspace& workspace) {
        const Index expected = shape_.kv_heads * row_size();
        require(keys.cols() == expected && values.cols() == expected && keys.rows() == values.rows(), "keys [",
                keys.rows(), ", ", keys.cols(), "] and values [", values.rows(), ", ", values.cols(),
                "] were appended, expected rows of ", expected, " elements");
        require_room_for(keys.rows());
        const CachedRun<C> run = next_run(keys.rows());
        device_.template append<C>(keys, values, std::span(&run, 1), workspace);
        advance(keys.rows());
    }

    /// Counts positions whose keys and values the device has appended.
    void advance(Index positions) { ring_.advance(positions); }

    /// Throws Error where `tokens` more would pass the context limit.
    void require_room_for(Index tokens) const {
        require(has_room_for(tokens), "the context of ", capacity(), " positions is full: ", next_position(),
                " are taken and ", tokens, " more were given");
    }

    /// So many tokens that come next, as devices are told of them.
    [[nodiscard]] CachedRun<C> next_run(Index tokens) {
        return {.position = next_position(),
                .tokens = tokens,
                .first_resident = first_resident(),
                .store = {keys_.data(), values_.data(), shape_.kv_heads, capacity(), row_size()}};
    }

    /// Calls visit(matrix [positions, row_size], in the device's memory) for all that is resident, in logical order:
    /// the keys of the first head, of the second and so on, then the values. Saving reads them, restoring writes them.
    template <class Visit>
    void for_each_segment(Visit&& visit) {
        for_each_segment(*this, visit);
    }
    template <class Visit>
    void for_each_segment(Visit&& visit) const {
        for_each_segment(*this, visit);
    }

    /// Makes the positions first … end - 1 resident with unspecified content, to be written by for_each_segment.
    /// Throws Error where a ring of this capacity cannot hold them.
    void reset(Index first, Index end) {
        require(0 <= first && first <= end && end - first <= capacity() && (rolls() || end <= capacity()),
                "a cache of ", capacity(), " slots was asked to hold the positions from ", first, " to before ", end);
        ring_.reset(first, end);
    }

  private:
    static Index checked_capacity(const Shape& shape, const CacheLimits& limits) {
        require(shape.window != Dynamic, "the cache's window is not given");
        require(shape.kv_heads != Dynamic, "the cache's kv_heads is not given");
        require(shape.head_dim != Dynamic, "the cache's head_dim is not given");
        require(limits.context > 0, "the context limit is ", limits.context, ", expected a positive number");
        require(limits.rewind >= 0, "rewind is ", limits.rewind, ", expected none or more tokens");
        require(shape.window != no_window || limits.context != no_window,
                "a cache without a window needs a context limit");
        const Index rolling = limits.rewind > no_window - shape.window ? no_window : shape.window + limits.rewind;
        const Index capacity = std::min(rolling, limits.context);
        constexpr Index most_elements = std::numeric_limits<Index>::max() / 64;
        require(shape.head_dim <= most_elements / 2 &&
                    shape.kv_heads <= most_elements / CachedRow<C>::size(shape.head_dim) &&
                    capacity <= most_elements / (shape.kv_heads * CachedRow<C>::size(shape.head_dim)),
                "a cache of ", capacity, " positions, ", shape.kv_heads, " heads and ", shape.head_dim,
                " elements each does not fit into memory");
        return capacity;
    }

    template <class Self, class Visit>
    static void for_each_segment(Self& self, Visit& visit) {
        for (auto* memory : {self.keys_.data(), self.values_.data()})
            for (Index head = 0; head < self.shape_.kv_heads; ++head)
                for (const SlotRun& run : self.ring_.runs(self.ring_.first_resident()))
                    visit(self.segment(memory, head, run));
    }

    /// Elements of one head's key or value.
    [[nodiscard]] Index row_size() const { return CachedRow<C>::size(shape_.head_dim); }

    template <class T>
    [[nodiscard]] MatrixView<T> segment(T* memory, Index head, const SlotRun& run) const {
        return {memory + (head * capacity() + run.slot) * row_size(), run.count, row_size()};
    }

    D device_;
    Shape shape_;
    Ring ring_;
    typename D::template Buffer<Element> keys_;    // [kv_heads, capacity, row_size]
    typename D::template Buffer<Element> values_;  // [kv_heads, capacity, row_size]
};

}  // namespace mistral

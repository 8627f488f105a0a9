#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/error.hpp>
#include <mistral/device/device.hpp>
#include <mistral/fwd.hpp>
#include <mistral/model/rolling_kv_cache.hpp>

#include <algorithm>
#include <istream>
#include <memory>
#include <ostream>
#include <vector>

namespace mistral {

/// All that one sequence owns: a rolling cache per layer, and scratch memory. A copy is an independent sequence with
/// the same past; it copies the resident entries of the caches and no scratch memory.
template <class C, class D, Shape fixed>
class SequenceState {
    static_assert(Device<D>);

  public:
    using Cache = RollingKVCache<C, D, fixed>;

    /// Layers without a window hold at most `limits.context` positions; without that limit, as many as the model was
    /// trained for. Throws Error where a fixed shape contradicts the config, and for a config without layers or
    /// windows.
    SequenceState(const D& device, const Config& config, CacheLimits limits = {})
        : device_(device), workspace_(device.workspace()) {
        require(config.layers > 0, "the model has ", config.layers, " layers, expected one or more");
        require(!config.windows.empty(), "the config has no windows, expected one or more");
        if (limits.context == no_window) limits.context = std::max<Index>(config.max_positions, 1);
        caches_.reserve(static_cast<std::size_t>(config.layers));
        for (Index layer = 0; layer < config.layers; ++layer) {
            const bool rolls = config.window(layer) <= limits.context;
            caches_.emplace_back(device, config.shape(layer),
                                 CacheLimits{.context = rolls ? no_window : limits.context, .rewind = limits.rewind});
        }
    }

    SequenceState(const SequenceState& other)
        : device_(other.device_), caches_(other.caches_), workspace_(device_.workspace()) {}
    SequenceState(SequenceState&&) noexcept = default;
    SequenceState& operator=(const SequenceState& other) { return *this = SequenceState(other); }
    SequenceState& operator=(SequenceState&&) noexcept = default;

    /// Tokens consumed so far, which is the position of the next one.
    [[nodiscard]] Index position() const { return caches_.front().next_position(); }

    /// Memory of all caches in bytes.
    [[nodiscard]] Index bytes() const {
        Index sum = 0;
        for (const Cache& cache : caches_) sum += cache.bytes();
        return sum;
    }

    [[nodiscard]] bool has_room_for(Index tokens) const {
        return std::all_of(caches_.begin(), caches_.end(),
                           [=](const Cache& cache) { return cache.has_room_for(tokens); });
    }

    [[nodiscard]] bool can_rewind_to(Index position) const {
        return std::all_of(caches_.begin(), caches_.end(),
                           [=](const Cache& cache) { return cache.can_rewind_to(position); });
    }

    /// Forgets the tokens from `position` on. Throws Error, and changes nothing, where can_rewind_to does not hold.
    void rewind_to(Index position) {
        for (Cache& cache : caches_)
            if (!cache.can_rewind_to(position)) cache.rewind_to(position);  // throws, saying why
        for (Cache& cache : caches_) cache.rewind_to(position);
    }

    void clear() {
        for (Cache& cache : caches_) cache.clear();
    }

    /// Counts positions whose keys and values the device has appended by itself, in a pass that it repeated.
    void advance(Index positions) {
        for (Cache& cache : caches_) cache.advance(positions);
    }

    /// Writes the geometry and the resident entries of all caches, in the machine's byte order.
    void save(std::ostream& out) const {
        auto workspace = device_.workspace();
        for (const Cache& cache : caches_) {
            for (const Index number : geometry(cache)) write(out, &number, 1);
            cache.for_each_segment([&](MatrixView<const Element> segment) {
                std::vector<Element> host(static_cast<std::size_t>(segment.rows() * segment.cols()));
                device_.copy_out(segment, MatrixView<Element>(host.data(), segment.rows(), segment.cols()), workspace);
                device_.finish(workspace);
                write(out, host.data(), host.size());
            });
        }
    }

    /// Reads what `save` wrote. Throws Error where the input ends early or its geometry is another one; the state is
    /// empty then.
    void restore(std::istream& in) {
        clear();
        try {
            for (Cache& cache : caches_) restore(in, cache);
            for (const Cache& cache : caches_)
                require(cache.next_position() == position(), "a saved layer ends at position ", cache.next_position(),
                        ", another at ", position());
        } catch (...) {
            clear();
            throw;
        }
    }

    /// To be changed where it is, never assigned: devices repeat passes over its memory.
    [[nodiscard]] Cache& cache(Index layer) { return caches_[static_cast<std::size_t>(layer)]; }
    [[nodiscard]] const Cache& cache(Index layer) const { return caches_[static_cast<std::size_t>(layer)]; }
    [[nodiscard]] Index layers() const { return static_cast<Index>(caches_.size()); }
    [[nodiscard]] typename D::Workspace& workspace() { return workspace_; }
    /// Another pointer for other memory of caches: a copy has its own, a move takes it along.
    [[nodiscard]] const std::shared_ptr<const void>& identity() const { return identity_; }

  private:
    using Element = typename Cache::Element;

    /// What a saved cache begins with: its extent, then what must agree.
    static constexpr std::size_t geometry_size = 6;
    static std::array<Index, geometry_size> geometry(const Cache& cache) {
        return {cache.first_resident(), cache.next_position(),  cache.capacity(),
                cache.shape().kv_heads, cache.shape().head_dim, static_cast<Index>(sizeof(Element))};
    }

    void restore(std::istream& in, Cache& cache) {
        const auto expected = geometry(cache);
        std::array<Index, geometry_size> saved;
        read(in, saved.data(), saved.size());
        for (std::size_t i = 2; i < geometry_size; ++i)
            require(saved[i] == expected[i], "a saved cache has ", saved[2], " slots, ", saved[3], " heads of ",
                    saved[4], " elements of ", saved[5], " bytes, expected ", expected[2], ", ", expected[3], ", ",
                    expected[4], ", ", expected[5]);
        cache.reset(saved[0], saved[1]);
        cache.for_each_segment([&](MatrixView<Element> segment) {
            std::vector<Element> host(static_cast<std::size_t>(segment.rows() * segment.cols()));
            read(in, host.data(), host.size());
            device_.copy_in(MatrixView<const Element>(host.data(), segment.rows(), segment.cols()), segment,
                            workspace_);
            device_.finish(workspace_);
        });
    }

    template <class T>
    static void write(std::ostream& out, const T* values, std::size_t count) {
        out.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(count * sizeof(T)));
    }

    template <class T>
    static void read(std::istream& in, T* values, std::size_t count) {
        in.read(reinterpret_cast<char*>(values), static_cast<std::streamsize>(count * sizeof(T)));
        require(in.good(), "the saved caches end early");
    }

    D device_;
    std::shared_ptr<const void> identity_ = std::make_shared<char>();
    std::vector<Cache> caches_;
    typename D::Workspace workspace_;
};

}  // namespace mistral

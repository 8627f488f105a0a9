#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/device/device.hpp>
#include <mistral/fwd.hpp>
#include <mistral/model/in_groups.hpp>
#include <mistral/model/rolling_kv_cache.hpp>

#include <concepts>
#include <cstddef>
#include <utility>

namespace mistral {

/// softmax(Q Kᵀ / sqrt(head_dim)) V under a causal mask of `window` keys, over a rolling cache; each key/value head
/// serves query_heads / kv_heads consecutive query heads (arXiv:2310.06825, section 2; arXiv:2305.13245).
/// Nothing is projected or rotated here.
template <Scalar S, class D, Shape fixed>
class SlidingWindowAttention {
    static_assert(Device<D>);

  public:
    using A = Activation<S>;

    /// Throws Error where a number of the shape is missing, nonsense, or contradicts the type.
    explicit SlidingWindowAttention(D device, const Shape& shape = {})
        : device_(std::move(device)), shape_(resolve(fixed, shape)) {
        require(shape_.window != Dynamic, "the attention's window is not given");
        require(shape_.query_heads != Dynamic, "the attention's query_heads is not given");
        require(shape_.kv_heads != Dynamic, "the attention's kv_heads is not given");
        require(shape_.head_dim != Dynamic, "the attention's head_dim is not given");
    }

    [[nodiscard]] const Shape& shape() const { return shape_; }

    /// queries [tokens, query_heads * head_dim], keys and values [tokens, kv_heads * head_dim] of the positions from
    /// cache.next_position() on -> out, of the queries' shape. Keys and values are rounded to the cache's scalar before
    /// they are used, and appended after: the queries of a chunk see what its end overwrites.
    /// Throws Error for wrong shapes, a cache of another geometry or a smaller window, or a full context.
    template <class C, Shape cache_fixed>
    requires std::same_as<Activation<C>, A>
    void forward(MatrixView<const A> queries, MatrixView<const A> keys, MatrixView<const A> values,
                 RollingKVCache<C, D, cache_fixed>& cache, MatrixView<A> out, typename D::Workspace& workspace) const {
        forward_each<C>(
            queries, keys, values, [&](auto visit) { visit(cache, queries.rows()); }, out, workspace);
    }

    /// The same for several sequences, whose tokens are rows that follow each other: for_each_cache(visit) calls
    /// visit(cache, tokens) for each. C is the scalar of their caches.
    template <class C, class ForEachCache>
    requires std::same_as<Activation<C>, A>
    void forward_each(MatrixView<const A> queries, MatrixView<const A> keys, MatrixView<const A> values,
                      const ForEachCache& for_each_cache, MatrixView<A> out, typename D::Workspace& workspace) const {
        expect("queries", queries, queries.rows(), shape_.query_heads);
        expect("results", out, queries.rows(), shape_.query_heads);
        expect("keys", keys, queries.rows(), shape_.kv_heads);
        expect("values", values, queries.rows(), shape_.kv_heads);
        for_each_cache([&](const auto& cache, Index tokens) { check(cache, tokens); });
        auto frame = workspace.frame();
        const auto entries = rounded<C>(keys, values, frame, workspace);
        const auto for_each_run = [&](auto visit) {
            for_each_cache([&](auto& cache, Index tokens) { visit(cache.next_run(tokens)); });
        };
        std::size_t done = 0;
        in_groups<CachedRun<C>>(for_each_run, [&](auto runs, Index first, Index tokens) {
            const auto rows = [=](const auto& matrix) { return matrix.middle_rows(first, tokens); };
            using Rows = MatrixView<const CachedElement<C>>;
            const Rows run_keys = rows(entries.first), run_values = rows(entries.second);
            device_.template attend<C>(rows(queries), run_keys, run_values, runs, shape_, rows(out), workspace);
            device_.template append<C>(run_keys, run_values, runs, workspace);
            // At once, so that where a later group fails, caches know what they have lost.
            std::size_t i = 0;
            for_each_cache([&](auto& cache, Index count) {
                if (const std::size_t number = i++; done <= number && number < done + runs.size()) cache.advance(count);
            });
            done += runs.size();
        });
    }

    /// The same for positions whose results nobody wants: appends their keys and values. Throws as forward.
    template <class C, Shape cache_fixed>
    requires std::same_as<Activation<C>, A>
    void append(MatrixView<const A> keys, MatrixView<const A> values, RollingKVCache<C, D, cache_fixed>& cache,
                typename D::Workspace& workspace) const {
        expect("keys", keys, keys.rows(), shape_.kv_heads);
        expect("values", values, keys.rows(), shape_.kv_heads);
        check(cache, keys.rows());
        auto frame = workspace.frame();
        const auto [new_keys, new_values] = rounded<C>(keys, values, frame, workspace);
        cache.append(new_keys, new_values, workspace);
    }

  private:
    /// Keys and values [tokens, kv_heads * head_dim] -> rows of a cache of scalar C, in the frame's memory.
    template <class C, class Frame>
    [[nodiscard]] auto rounded(MatrixView<const A> keys, MatrixView<const A> values, Frame& frame,
                               typename D::Workspace& workspace) const {
        const Index size = shape_.kv_heads * CachedRow<C>::size(shape_.head_dim);
        const auto new_keys = frame.template matrix<CachedElement<C>>(keys.rows(), size);
        const auto new_values = frame.template matrix<CachedElement<C>>(keys.rows(), size);
        device_.template convert<C>(keys, values, shape_.head_dim, new_keys, new_values, workspace);
        return std::pair(new_keys, new_values);
    }

    void expect(const char* name, MatrixView<const A> matrix, Index tokens, Index heads) const {
        require(matrix.rows() == tokens && matrix.cols() == heads * shape_.head_dim, "the attention's ", name, " are [",
                matrix.rows(), ", ", matrix.cols(), "], expected [", tokens, ", ", heads * shape_.head_dim, "]");
    }

    template <class Cache>
    void check(const Cache& cache, Index tokens) const {
        require(cache.shape().kv_heads == shape_.kv_heads && cache.shape().head_dim == shape_.head_dim,
                "the cache has ", cache.shape().kv_heads, " heads of ", cache.shape().head_dim, ", the attention ",
                shape_.kv_heads, " of ", shape_.head_dim);
        require(cache.shape().window >= shape_.window, "the cache keeps a window of ", cache.shape().window,
                ", the attention looks back ", shape_.window);
        cache.require_room_for(tokens);
    }

    D device_;
    Shape shape_;
};

}  // namespace mistral

#pragma once

#include <mistral/base/shape.hpp>
#include <mistral/device/device.hpp>
#include <mistral/fwd.hpp>
#include <mistral/model/in_groups.hpp>
#include <mistral/model/linear.hpp>
#include <mistral/model/rolling_kv_cache.hpp>
#include <mistral/model/rotary_embedding.hpp>
#include <mistral/model/sliding_window_attention.hpp>
#include <mistral/model/weights.hpp>

#include <array>
#include <utility>

namespace mistral {

/// A whole attention layer: projections to queries, keys and values, rotary embedding, sliding-window attention over
/// a rolling cache, output projection (arXiv:2305.13245; arXiv:2310.06825). kv_heads = query_heads is multi-head
/// attention, kv_heads = 1 multi-query attention.
template <Scalar S, class D, Shape fixed>
class GroupedQueryAttention {
    static_assert(Device<D>);

  public:
    using A = Activation<S>;

    /// hidden_size is what the weights say. Throws Error where weights, rotary embedding and shape contradict each
    /// other or the shape is incomplete.
    GroupedQueryAttention(D device, AttentionWeights<S, D> weights, RotaryEmbedding<S, D> rotary,
                          const Shape& shape = {})
        : device_(device),
          attention_(device, shape),
          rotary_(std::move(rotary)),
          query_(device, weights.query, query_size(), weights.query.cols(), "query"),
          key_(device, weights.key, key_size(), query_.inputs(), "key"),
          value_(device, weights.value, key_size(), query_.inputs(), "value"),
          output_(device, weights.output, query_.inputs(), query_size(), "attention output") {
        require(rotary_.head_dim() == attention_.shape().head_dim, "the rotary embedding's head_dim is ",
                rotary_.head_dim(), ", the attention's ", attention_.shape().head_dim);
    }

    [[nodiscard]] const Shape& shape() const { return attention_.shape(); }
    [[nodiscard]] Index hidden_size() const { return query_.inputs(); }

    /// x [tokens, hidden_size] of the positions from cache.next_position() on -> out [tokens, hidden_size], assigned or
    /// added; the cache grows by `tokens` positions. Throws Error for wrong shapes or a full context.
    template <class C, Shape cache_fixed>
    void forward(MatrixView<const A> x, RollingKVCache<C, D, cache_fixed>& cache, MatrixView<A> out,
                 typename D::Workspace& workspace, Update update = Update::assign) const {
        forward_each<C>(
            x, [&](auto visit) { visit(cache, x.rows()); }, out, workspace, update);
    }

    /// The same for several sequences, whose tokens are rows that follow each other: for_each_cache(visit) calls
    /// visit(cache, tokens) for each. C is the scalar of their caches. They share the projections, which read their
    /// weights once.
    template <class C, class ForEachCache>
    void forward_each(MatrixView<const A> x, const ForEachCache& for_each_cache, MatrixView<A> out,
                      typename D::Workspace& workspace, Update update = Update::assign) const {
        require(x.cols() == query_.inputs() && out.rows() == x.rows() && out.cols() == x.cols(), "attention from [",
                x.rows(), ", ", x.cols(), "] to [", out.rows(), ", ", out.cols(), "], expected rows of ",
                query_.inputs(), " elements");
        auto frame = workspace.frame();
        const auto turned = frame.template matrix<A>(x.rows(), query_size() + key_size());  // by one rotation
        const auto queries = turned.middle_cols(0, query_size());
        const auto keys = turned.middle_cols(query_size(), key_size());
        const auto values = frame.template matrix<A>(x.rows(), key_size());
        const auto mixed = frame.template matrix<A>(x.rows(), query_size());
        device_.multiply(x, std::array{query_.to(queries), key_.to(keys), value_.to(values)}, Update::assign,
                         workspace);
        const auto for_each_run = [&](auto visit) {
            for_each_cache([&](const auto& cache, Index tokens) { visit({cache.next_position(), tokens}); });
        };
        in_groups<TokenRun>(for_each_run, [&](auto runs, Index first, Index tokens) {
            rotary_.forward(turned.middle_rows(first, tokens), runs, workspace);
        });
        attention_.template forward_each<C>(queries, keys, values, for_each_cache, mixed, workspace);
        output_.forward(mixed, out, workspace, update);
    }

    /// The same for tokens whose results nobody wants: appends their keys and values. Throws as forward.
    template <class C, Shape cache_fixed>
    void append(MatrixView<const A> x, RollingKVCache<C, D, cache_fixed>& cache,
                typename D::Workspace& workspace) const {
        require(x.cols() == query_.inputs(), "attention from [", x.rows(), ", ", x.cols(), "], expected rows of ",
                query_.inputs(), " elements");
        const Index position = cache.next_position();
        auto frame = workspace.frame();
        const auto keys = frame.template matrix<A>(x.rows(), key_size());
        const auto values = frame.template matrix<A>(x.rows(), key_size());
        device_.multiply(x, std::array{key_.to(keys), value_.to(values)}, Update::assign, workspace);
        rotary_.forward(keys, position, workspace);
        attention_.append(keys, values, cache, workspace);
    }

  private:
    [[nodiscard]] Index query_size() const { return shape().query_heads * shape().head_dim; }
    [[nodiscard]] Index key_size() const { return shape().kv_heads * shape().head_dim; }

    D device_;
    SlidingWindowAttention<S, D, fixed> attention_;
    RotaryEmbedding<S, D> rotary_;
    Linear<S, D> query_;   // [query_heads * head_dim, hidden_size]
    Linear<S, D> key_;     // [kv_heads * head_dim, hidden_size]
    Linear<S, D> value_;   // [kv_heads * head_dim, hidden_size]
    Linear<S, D> output_;  // [hidden_size, query_heads * head_dim]
};

}  // namespace mistral

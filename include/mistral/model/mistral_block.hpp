#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/error.hpp>
#include <mistral/device/device.hpp>
#include <mistral/fwd.hpp>
#include <mistral/model/feed_forward.hpp>
#include <mistral/model/grouped_query_attention.hpp>
#include <mistral/model/rms_norm.hpp>
#include <mistral/model/rotary_embedding.hpp>
#include <mistral/model/weights.hpp>

#include <utility>

namespace mistral {

/// One decoder layer with its two residual connections: x += attention(norm(x)); x += feed_forward(norm(x))
/// (arXiv:2310.06825).
template <Scalar S, class D, Shape fixed>
class MistralBlock {
    static_assert(Device<D>);

  public:
    using A = Activation<S>;

    /// norm_eps is added to the mean square in both norms. Throws Error where weights, rotary embedding and shape
    /// contradict each other, the shape is incomplete or norm_eps is nonsense.
    MistralBlock(const D& device, BlockWeights<S, D> weights, RotaryEmbedding<S, D> rotary, double norm_eps,
                 const Shape& shape = {})
        : attention_norm_(device, std::move(weights.attention_norm), norm_eps),
          attention_(device, std::move(weights.attention), std::move(rotary), shape),
          feed_forward_norm_(device, std::move(weights.feed_forward_norm), norm_eps),
          feed_forward_(device, std::move(weights.feed_forward)) {
        require(attention_norm_.hidden_size() == hidden_size() && feed_forward_norm_.hidden_size() == hidden_size() &&
                    feed_forward_.hidden_size() == hidden_size(),
                "the block's attention has rows of ", hidden_size(), " elements, its norms of ",
                attention_norm_.hidden_size(), " and ", feed_forward_norm_.hidden_size(),
                ", its feed-forward layer of ", feed_forward_.hidden_size(), ", expected the same of all");
    }

    /// x [tokens, hidden_size] of the positions from cache.next_position() on, in place.
    /// Throws Error for wrong shapes or a full context.
    template <class C, Shape cache_fixed>
    void forward(MatrixView<A> x, RollingKVCache<C, D, cache_fixed>& cache, typename D::Workspace& workspace) const {
        forward_each<C>(
            x, [&](auto visit) { visit(cache, x.rows()); }, workspace);
    }

    /// The same for several sequences, whose tokens are rows that follow each other: for_each_cache(visit) calls
    /// visit(cache, tokens) for each. C is the scalar of their caches.
    template <class C, class ForEachCache>
    void forward_each(MatrixView<A> x, const ForEachCache& for_each_cache, typename D::Workspace& workspace) const {
        auto frame = workspace.frame();
        const auto normed = frame.template matrix<A>(x.rows(), x.cols());
        attention_norm_.forward(x, normed, workspace);
        attention_.template forward_each<C>(normed, for_each_cache, x, workspace, Update::add);
        feed_forward_norm_.forward(x, normed, workspace);
        feed_forward_.forward(normed, x, workspace, Update::add);
    }

    /// The same for tokens whose results nobody wants, which is so in the last layer: appends their keys and values.
    template <class C, Shape cache_fixed>
    void append(MatrixView<const A> x, RollingKVCache<C, D, cache_fixed>& cache,
                typename D::Workspace& workspace) const {
        auto frame = workspace.frame();
        const auto normed = frame.template matrix<A>(x.rows(), x.cols());
        attention_norm_.forward(x, normed, workspace);
        attention_.append(normed, cache, workspace);
    }

    [[nodiscard]] const Shape& shape() const { return attention_.shape(); }
    [[nodiscard]] Index hidden_size() const { return attention_.hidden_size(); }

  private:
    RMSNorm<S, D> attention_norm_;
    GroupedQueryAttention<S, D, fixed> attention_;
    RMSNorm<S, D> feed_forward_norm_;
    FeedForward<S, D> feed_forward_;
};

}  // namespace mistral

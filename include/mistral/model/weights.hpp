#pragma once

#include <mistral/scalar/scalar.hpp>

#include <vector>

namespace mistral {

/// The weights of one grouped-query attention layer. A linear map is stored as in checkpoints: [outputs, inputs].
template <Scalar S, class D>
struct AttentionWeights {
    typename D::template Matrix<S> query;   ///< [query_heads * head_dim, hidden_size]
    typename D::template Matrix<S> key;     ///< [kv_heads * head_dim, hidden_size]
    typename D::template Matrix<S> value;   ///< [kv_heads * head_dim, hidden_size]
    typename D::template Matrix<S> output;  ///< [hidden_size, query_heads * head_dim]
};

/// The weights of one SwiGLU feed-forward layer.
template <Scalar S, class D>
struct FeedForwardWeights {
    typename D::template Matrix<S> gate;  ///< [intermediate_size, hidden_size]
    typename D::template Matrix<S> up;    ///< [intermediate_size, hidden_size]
    typename D::template Matrix<S> down;  ///< [hidden_size, intermediate_size]
};

/// The weights of one decoder block. Those of norms are kept in the type of activations.
template <Scalar S, class D>
struct BlockWeights {
    typename D::template Matrix<Activation<S>> attention_norm;  ///< [1, hidden_size]
    AttentionWeights<S, D> attention;
    typename D::template Matrix<Activation<S>> feed_forward_norm;  ///< [1, hidden_size]
    FeedForwardWeights<S, D> feed_forward;
};

/// The weights of a whole model.
template <Scalar S, class D>
struct ModelWeights {
    typename D::template Matrix<EmbeddingScalar<S>> embedding;  ///< [vocab_size, hidden_size]
    std::vector<BlockWeights<S, D>> blocks;
    typename D::template Matrix<Activation<S>> norm;  ///< [1, hidden_size]
    typename D::template Matrix<S> output;            ///< [vocab_size, hidden_size]; that of the embedding where tied
};

}  // namespace mistral

#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>

#include <string>
#include <vector>

namespace mistral {

/// A tensor that a model has, with the names that the two kinds of checkpoints give it.
struct ModelTensor {
    std::string name;               ///< Hugging Face's, which the library uses
    std::string consolidated_name;  ///< Mistral's
    std::vector<Index> shape;
};

/// The output projection, which models with tied embeddings do not have.
[[nodiscard]] inline ModelTensor output_tensor(const Config& config) {
    return {"lm_head.weight", "output.weight", {config.vocab_size, config.hidden_size}};
}

/// What the names of the tensors of layer `layer` begin with.
[[nodiscard]] inline std::string layer_name(Index layer) {
    return concat("model.layers.", layer, ".");
}

/// The tensors of layer `layer`.
[[nodiscard]] inline std::vector<ModelTensor> layer_tensors(const Config& config, Index layer) {
    const Index hidden = config.hidden_size;
    const Index inner = config.intermediate_size;
    const Index queries = config.query_heads * config.head_dim;
    const Index keys = config.kv_heads * config.head_dim;
    const std::string name = layer_name(layer);
    const std::string consolidated = concat("layers.", layer, ".");
    return {
        {name + "input_layernorm.weight", consolidated + "attention_norm.weight", {hidden}},
        {name + "self_attn.q_proj.weight", consolidated + "attention.wq.weight", {queries, hidden}},
        {name + "self_attn.k_proj.weight", consolidated + "attention.wk.weight", {keys, hidden}},
        {name + "self_attn.v_proj.weight", consolidated + "attention.wv.weight", {keys, hidden}},
        {name + "self_attn.o_proj.weight", consolidated + "attention.wo.weight", {hidden, queries}},
        {name + "post_attention_layernorm.weight", consolidated + "ffn_norm.weight", {hidden}},
        {name + "mlp.gate_proj.weight", consolidated + "feed_forward.w1.weight", {inner, hidden}},
        {name + "mlp.up_proj.weight", consolidated + "feed_forward.w3.weight", {inner, hidden}},
        {name + "mlp.down_proj.weight", consolidated + "feed_forward.w2.weight", {hidden, inner}},
    };
}

/// All tensors of the model that `config` describes.
[[nodiscard]] inline std::vector<ModelTensor> model_tensors(const Config& config) {
    std::vector<ModelTensor> all{
        {"model.embed_tokens.weight", "tok_embeddings.weight", {config.vocab_size, config.hidden_size}}};
    for (Index layer = 0; layer < config.layers; ++layer)
        for (ModelTensor& tensor : layer_tensors(config, layer)) all.push_back(std::move(tensor));
    all.push_back({"model.norm.weight", "norm.weight", {config.hidden_size}});
    if (!config.tied_embeddings) all.push_back(output_tensor(config));
    return all;
}

}  // namespace mistral

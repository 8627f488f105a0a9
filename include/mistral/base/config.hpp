#pragma once

#include <mistral/base/shape.hpp>
#include <mistral/base/types.hpp>

#include <vector>

namespace mistral {

/// Which two elements of a head a rotary embedding turns together.
enum class RotaryPairing {
    halves,    ///< i with i + head_dim / 2: Hugging Face checkpoints, whose query and key rows are permuted for it
    adjacent,  ///< 2 i with 2 i + 1: Mistral's own consolidated checkpoints, and RoFormer (arXiv:2104.09864)
};

/// What config.json or params.json says of a model. `checkpoint/` reads and validates it.
struct Config {
    Index layers = 0;
    Index hidden_size = 0;
    Index intermediate_size = 0;  ///< width of the feed-forward layer
    Index query_heads = 0;
    Index kv_heads = 0;
    Index head_dim = 0;  ///< not necessarily hidden_size / query_heads
    Index vocab_size = 0;
    Index max_positions = 0;  ///< positions that the model was trained for
    double rope_theta = 0;    ///< base of the rotary frequencies
    double norm_eps = 0;      ///< added to the mean square in RMSNorm
    bool tied_embeddings = false;
    RotaryPairing rotary_pairing = RotaryPairing::halves;
    std::vector<Index> windows{no_window};  ///< one per layer, one at least; repeated where layers outnumber them
    Token bos_token = 1;                    ///< begins a sequence; -1 where the checkpoint names none
    std::vector<Token> eos_tokens{2};       ///< each ends a generation

    /// The window of layer `layer`.
    [[nodiscard]] Index window(Index layer) const { return windows[static_cast<std::size_t>(layer) % windows.size()]; }

    /// The attention geometry of layer `layer`.
    [[nodiscard]] Shape shape(Index layer) const {
        return {.window = window(layer), .query_heads = query_heads, .kv_heads = kv_heads, .head_dim = head_dim};
    }

    friend bool operator==(const Config&, const Config&) = default;
};

}  // namespace mistral

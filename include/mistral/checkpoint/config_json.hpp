#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/error.hpp>
#include <mistral/checkpoint/json.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// Reads what a checkpoint says of its model. Every number is checked against a range far beyond any model, so that no
/// product of two of them wraps; whatever would change the arithmetic and is not implemented is refused by name.
class ConfigReader {
  public:
    static constexpr Index max_layers = Index{1} << 12;
    static constexpr Index max_width = Index{1} << 24;  ///< of the hidden state, the feed-forward layer, the vocabulary
    static constexpr Index max_heads = Index{1} << 14;
    static constexpr Index max_head_dim = Index{1} << 12;
    static constexpr Index max_positions = Index{1} << 40;  ///< also of a window

    /// Hugging Face's config.json of `model_type` mistral or llama. What it leaves out has the default of transformers'
    /// MistralConfig or LlamaConfig (version 5.23); in particular
    ///
    ///   - a missing `sliding_window` is 4096 for mistral; null is none. A list repeats over the layers.
    ///     `layer_types` says of each layer whether the window holds ("sliding_attention") or not ("full_attention").
    ///     0, which is "none" to some programs and nonsense to others, is refused. A llama has no windows: like
    ///     transformers' LlamaConfig, its files may hold these keys, and they mean nothing.
    ///   - `rope_theta` stands beside the other keys, or in `rope_parameters` or `rope_scaling` with the rope_type
    ///     "default"; 10000 if nowhere. Every other kind of scaling is refused.
    ///   - `head_dim` missing or null is hidden_size / num_attention_heads.
    ///   - `eos_token_id` is one token, a list, or null for none; `bos_token_id` null becomes -1, which is no token.
    ///   - `torch_dtype` or `dtype` must name a floating-point type, but the tensors themselves decide.
    ///   - `rms_norm_eps` must be positive.
    ///   - Unknown keys are ignored, since these files carry many that say nothing of the model.
    [[nodiscard]] static Config config_json(const Json& root) {
        const Family family = family_of(root);
        for (const char* feature : {"quantization_config", "attention_bias", "mlp_bias", "num_local_experts",
                                    "num_experts", "use_qk_norm", "attn_logit_softcapping", "final_logit_softcapping"})
            refuse(root, feature);
        if (const auto act = root.find_given("hidden_act")) act->expect(act->text() == "silu", "\"silu\"");
        for (const char* key : {"torch_dtype", "dtype"})
            if (const auto dtype = root.find_given(key)) require_float(*dtype);

        Config config;
        config.layers = size(root, "num_hidden_layers", max_layers, 32);
        config.hidden_size = size(root, "hidden_size", max_width, 4096);
        config.intermediate_size = size(root, "intermediate_size", max_width, family.intermediate_size);
        config.query_heads = size(root, "num_attention_heads", max_heads, 32);
        config.kv_heads = size(root, "num_key_value_heads", max_heads, family.kv_heads.value_or(config.query_heads));
        config.vocab_size = size(root, "vocab_size", max_width, 32000);
        config.max_positions = size(root, "max_position_embeddings", max_positions, family.max_positions);
        config.head_dim = head_dim(root, config);
        config.rope_theta = rope_theta(root);
        config.norm_eps = 1e-6;
        if (const auto eps = root.find("rms_norm_eps")) config.norm_eps = eps->number(0, 1);
        if (const auto tied = root.find_given("tie_word_embeddings")) config.tied_embeddings = tied->boolean();
        config.rotary_pairing = RotaryPairing::halves;
        if (family.window) {
            const auto window = root.find("sliding_window");
            config.windows = window ? windows(*window) : std::vector<Index>{*family.window};
            if (const auto types = root.find_given("layer_types")) config.windows = by_layer(*types, config);
        }
        if (const auto bos = root.find("bos_token_id")) config.bos_token = bos->is_null() ? -1 : token(*bos, config);
        if (const auto eos = root.find("eos_token_id")) config.eos_tokens = tokens(*eos, config);
        require_consistent(config, root);
        return config;
    }

    /// Mistral's own params.json. In particular
    ///
    ///   - `sliding_window` (or `_sliding_window`, as some files spell it) missing or null is none. A list repeats over
    ///     the layers; null in it is a layer without window.
    ///   - A missing `rope_theta` meant 1e4 in 2023 and means 1e6 to today's mistral-inference. Only with the window of
    ///     4096 (Mistral 7B v0.1) is 1e4 certain; otherwise it is required.
    ///   - `max_position_embeddings` or `max_seq_len` missing is 32768, what the 7B models were trained for.
    ///   - Every entry of these short files describes the model, so unknown ones are refused unless null or false.
    [[nodiscard]] static Config params_json(const Json& root) {
        root.for_each_member([](std::string_view key, const Json& value) {
            require(is_known_parameter(key) || value.is_null() || value.is_false(), value.where(),
                    " is not supported: it may change what the model computes");
        });
        if (const auto type = root.find("model_type")) type->expect(type->text() == "transformer", "\"transformer\"");
        if (const auto causal = root.find_given("causal")) causal->expect(causal->boolean(), "true");

        Config config;
        config.layers = size(root, "n_layers", max_layers, std::nullopt);
        config.hidden_size = size(root, "dim", max_width, std::nullopt);
        config.intermediate_size = size(root, "hidden_dim", max_width, std::nullopt);
        config.query_heads = size(root, "n_heads", max_heads, std::nullopt);
        config.kv_heads = size(root, "n_kv_heads", max_heads, std::nullopt);
        config.head_dim = size(root, "head_dim", max_head_dim, std::nullopt);
        config.vocab_size = size(root, "vocab_size", max_width, std::nullopt);
        const Index positions = size(root, "max_seq_len", max_positions, 32768);
        config.max_positions = size(root, "max_position_embeddings", max_positions, positions);
        config.norm_eps = root.at("norm_eps").number(0, 1);
        if (const auto tied = root.find_given("tied_embeddings")) config.tied_embeddings = tied->boolean();
        config.rotary_pairing = RotaryPairing::adjacent;
        const auto window = root.find_given("sliding_window");
        const auto other_window = root.find_given("_sliding_window");
        if (other_window) other_window->expect(!window, "nothing: there is a sliding_window, too");
        if (window || other_window) config.windows = windows(window ? *window : *other_window);
        config.rope_theta = rope_theta_of_2023(root, config);
        require_consistent(config, root);
        return config;
    }

  private:
    /// Where transformers' defaults for the two model types differ.
    struct Family {
        Index intermediate_size;
        std::optional<Index> kv_heads;  // as many as query heads where nothing is said
        Index max_positions;
        std::optional<Index> window;  // none where the type knows no windows
    };

    static Family family_of(const Json& root) {
        const Json type = root.at("model_type");
        if (type.text() == "mistral") return {14336, 8, 131072, 4096};
        type.expect(type.text() == "llama", "\"mistral\" or \"llama\"");
        return {11008, std::nullopt, 2048, std::nullopt};
    }

    static bool is_known_parameter(std::string_view key) {
        constexpr std::array<std::string_view, 17> known{
            "dim",        "n_layers",        "head_dim",       "hidden_dim",  "n_heads",
            "n_kv_heads", "norm_eps",        "vocab_size",     "rope_theta",  "sliding_window",
            "model_type", "_sliding_window", "max_batch_size", "max_seq_len", "max_position_embeddings",
            "causal",     "tied_embeddings"};
        return std::find(known.begin(), known.end(), key) != known.end();
    }

    /// Throws Error where a feature that is not implemented is switched on.
    static void refuse(const Json& object, const char* feature) {
        if (const auto value = object.find_given(feature))
            require(value->is_false(), value->where(), " is not supported: expected false, null or nothing");
    }

    static void require_float(const Json& dtype) {
        constexpr std::array<std::string_view, 4> known{"float32", "float16", "bfloat16", "float64"};
        dtype.expect(std::find(known.begin(), known.end(), dtype.text()) != known.end(),
                     "float32, float16, bfloat16 or float64");
    }

    /// A positive number; null counts as missing, which is an error without a default.
    static Index size(const Json& root, const char* key, Index most, std::optional<Index> missing) {
        const auto given = root.find_given(key);
        return given || !missing ? root.at(key).integer(1, most) : *missing;
    }

    static Index head_dim(const Json& root, const Config& config) {
        if (const auto given = root.find_given("head_dim")) return given->integer(1, max_head_dim);
        require(config.hidden_size % config.query_heads == 0, root.where(), ": hidden_size is ", config.hidden_size,
                ", expected a multiple of num_attention_heads, which is ", config.query_heads, ", or a head_dim");
        return config.hidden_size / config.query_heads;
    }

    /// The base of the rotary frequencies in config.json. Where several entries give it they must agree.
    static double rope_theta(const Json& root) {
        std::optional<double> theta;
        const auto agree = [&](const Json& object) {
            if (const auto partial = object.find_given("partial_rotary_factor"))
                partial->expect(partial->number(0, 2) == 1, "1: rotating a part of each head is not supported");
            const auto given = object.find_given("rope_theta");
            if (!given) return;
            const double value = given->number(0, max_theta);
            given->expect(!theta || *theta == value, "the same rope_theta as elsewhere in the file");
            theta = value;
        };
        for (const char* key : {"rope_parameters", "rope_scaling"})
            if (const auto rope = root.find_given(key)) {
                rope->for_each_member(&require_plain_rotation);
                agree(*rope);
            }
        agree(root);
        return theta.value_or(1e4);
    }

    static void require_plain_rotation(const std::string& key, const Json& value) {
        if (key == "rope_type" || key == "type")
            value.expect(value.text() == "default", "\"default\": scaled rotary embeddings are not supported");
        else
            require(key == "rope_theta" || key == "partial_rotary_factor" || value.is_null(), value.where(),
                    " is not supported: expected a rope_theta only");
    }

    static double rope_theta_of_2023(const Json& root, const Config& config) {
        if (const auto theta = root.find_given("rope_theta")) return theta->number(0, max_theta);
        require(config.windows == std::vector<Index>{4096}, root.where(),
                ": rope_theta is missing, which is certain to mean 10000 only where sliding_window is 4096");
        return 1e4;
    }

    /// A window, none for null, or a list of those.
    static std::vector<Index> windows(const Json& value) {
        const auto one = [](const Json& window) {
            return window.is_null() ? no_window : window.integer(1, max_positions);
        };
        if (!value.is_array()) return {one(value)};
        std::vector<Index> list;
        for (const Json& window : value.elements(max_layers)) list.push_back(one(window));
        value.expect(!list.empty(), "a window at least");
        return list;
    }

    /// One window per layer by transformers' `layer_types`.
    static std::vector<Index> by_layer(const Json& types, const Config& config) {
        types.expect(config.windows.size() == 1, "nothing: sliding_window is a list already");
        const auto list = types.elements(max_layers);
        types.expect(static_cast<Index>(list.size()) == config.layers, concat("a list of ", config.layers));
        std::vector<Index> windows;
        for (const Json& type : list) {
            const bool full = type.text() == "full_attention";
            type.expect(full || type.text() == "sliding_attention", "\"sliding_attention\" or \"full_attention\"");
            type.expect(full || config.windows[0] != no_window, "\"full_attention\": there is no sliding_window");
            windows.push_back(full ? no_window : config.windows[0]);
        }
        return windows;
    }

    static Token token(const Json& value, const Config& config) {
        return static_cast<Token>(value.integer(0, config.vocab_size - 1));
    }

    static std::vector<Token> tokens(const Json& value, const Config& config) {
        if (value.is_null()) return {};
        if (!value.is_array()) return {token(value, config)};
        constexpr std::size_t most = 256;
        std::vector<Token> list;
        for (const Json& element : value.elements(most)) list.push_back(token(element, config));
        return list;
    }

    static void require_consistent(const Config& config, const Json& root) {
        require(config.head_dim % 2 == 0, root.where(), ": the heads have ", config.head_dim,
                " elements, expected an even number, since pairs of them are rotated");
        require(config.query_heads % config.kv_heads == 0, root.where(), ": ", config.query_heads,
                " query heads share ", config.kv_heads, " key/value heads, expected a divisor");
        require(static_cast<Index>(config.windows.size()) <= config.layers, root.where(), ": there are ",
                config.windows.size(), " windows, expected at most one per layer, of which there are ", config.layers);
    }

    static constexpr double max_theta = 1e12;
};

}  // namespace mistral

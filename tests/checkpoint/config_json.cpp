#include <mistral/checkpoint/config_json.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "files.hpp"

using namespace mistral;

namespace {

Config config_json(const std::string& text) {
    return ConfigReader::config_json(Json::parse(text, "config.json"));
}

Config params_json(const std::string& text) {
    return ConfigReader::params_json(Json::parse(text, "params.json"));
}

/// The Config of a small mistral with these entries added or, where it has them already, replaced.
Config with(const nlohmann::json& entries) {
    nlohmann::json all = files::read_json(files::hugging_face / "config.json");
    all.update(entries);
    return config_json(all.dump());
}

Config without(const std::string& key) {
    nlohmann::json all = files::read_json(files::hugging_face / "config.json");
    all.erase(key);
    return config_json(all.dump());
}

Config params_with(const nlohmann::json& entries) {
    nlohmann::json all = files::read_json(files::consolidated / "params.json");
    all.update(entries);
    return params_json(all.dump());
}

Config params_without(const std::string& key) {
    nlohmann::json all = files::read_json(files::consolidated / "params.json");
    all.erase(key);
    return params_json(all.dump());
}

template <class Read>
std::string refusal(Read&& read, const nlohmann::json& entries) {
    return message_of([&] { return read(entries); });
}

using Windows = std::vector<Index>;

}  // namespace

TEST_CASE("config.json of Mistral 7B v0.1, v0.2 and v0.3 are read as published") {
    const std::string common = R"("architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "use_cache": true, "attention_dropout": 0.0, )";
    Config expected{.layers = 32,
                    .hidden_size = 4096,
                    .intermediate_size = 14336,
                    .query_heads = 32,
                    .kv_heads = 8,
                    .head_dim = 128,
                    .vocab_size = 32000,
                    .max_positions = 32768,
                    .rope_theta = 1e4,
                    .norm_eps = 1e-5,
                    .windows = {4096}};
    CHECK(config_json("{" + common + R"("rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 32000})") ==
          expected);
    expected.rope_theta = 1e6;
    expected.windows = {no_window};
    CHECK(config_json("{" + common + R"("rope_theta": 1000000.0, "sliding_window": null, "vocab_size": 32000})") ==
          expected);
    expected.vocab_size = 32768;
    CHECK(config_json("{" + common + R"("rope_theta": 1000000.0, "sliding_window": null, "vocab_size": 32768})") ==
          expected);
}

TEST_CASE("params.json of Mistral 7B v0.1 and v0.3 are read as published") {
    const std::string common = R"("dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32,
        "n_kv_heads": 8, "norm_eps": 1e-05, )";
    Config expected{.layers = 32,
                    .hidden_size = 4096,
                    .intermediate_size = 14336,
                    .query_heads = 32,
                    .kv_heads = 8,
                    .head_dim = 128,
                    .vocab_size = 32000,
                    .max_positions = 32768,
                    .rope_theta = 1e4,
                    .norm_eps = 1e-5,
                    .rotary_pairing = RotaryPairing::adjacent,
                    .windows = {4096}};
    CHECK(params_json("{" + common + R"("sliding_window": 4096, "vocab_size": 32000})") == expected);
    expected.rope_theta = 1e6;
    expected.windows = {no_window};
    expected.vocab_size = 32768;
    CHECK(params_json("{" + common + R"("vocab_size": 32768, "rope_theta": 1000000.0})") == expected);
}

TEST_CASE("the configs that transformers wrote for the reference models agree with their goldens") {
    const auto goldens = files::read_json(files::reference / "goldens.json");
    for (const auto& golden : goldens.at("configs")) {
        const std::string name = golden.at("name");
        CAPTURE(name);
        const bool consolidated = golden.at("form") == "consolidated";
        const auto directory = files::reference / name;
        const Config config = consolidated ? params_json(files::read(directory / "params.json"))
                                           : config_json(files::read(directory / "config.json"));
        CHECK(config.layers == golden.at("layers"));
        CHECK(config.hidden_size == golden.at("hidden"));
        CHECK(config.intermediate_size == golden.at("inner"));
        CHECK(config.query_heads == golden.at("query_heads"));
        CHECK(config.kv_heads == golden.at("kv_heads"));
        CHECK(config.head_dim == golden.at("head_dim"));
        CHECK(config.vocab_size == golden.at("vocab"));
        CHECK(config.rope_theta == golden.at("theta"));
        CHECK(config.norm_eps == golden.at("eps"));
        CHECK(config.tied_embeddings == golden.at("tied"));
        CHECK(config.windows == Windows{golden.at("window").is_null() ? no_window : golden.at("window").get<Index>()});
        CHECK(config.rotary_pairing == (consolidated ? RotaryPairing::adjacent : RotaryPairing::halves));
    }
}

TEST_CASE("malformed configs have the verdicts of the manifest") {
    for (const auto& entry : files::manifest("config")) {
        CAPTURE(entry.dump());
        const std::string text = files::read(files::malformed / entry.at("file").get<std::string>());
        const auto message = message_of([&] { return config_json(text); });
        CHECK(message.empty() == (entry.at("verdict") == "accept"));
    }
}

TEST_CASE("what config.json leaves out has the defaults of transformers") {
    const Config mistral = config_json(R"({"model_type": "mistral"})");
    CHECK(mistral == Config{.layers = 32,
                            .hidden_size = 4096,
                            .intermediate_size = 14336,
                            .query_heads = 32,
                            .kv_heads = 8,
                            .head_dim = 128,
                            .vocab_size = 32000,
                            .max_positions = 131072,
                            .rope_theta = 1e4,
                            .norm_eps = 1e-6,
                            .windows = {4096}});
    const Config llama = config_json(R"({"model_type": "llama"})");
    CHECK(llama == Config{.layers = 32,
                          .hidden_size = 4096,
                          .intermediate_size = 11008,
                          .query_heads = 32,
                          .kv_heads = 32,
                          .head_dim = 128,
                          .vocab_size = 32000,
                          .max_positions = 2048,
                          .rope_theta = 1e4,
                          .norm_eps = 1e-6,
                          .windows = {no_window}});
}

TEST_CASE("sliding_window may be a number, null, a list or missing") {
    CHECK(with({{"sliding_window", 8}}).windows == Windows{8});
    CHECK(with({{"sliding_window", nullptr}}).windows == Windows{no_window});
    CHECK(without("sliding_window").windows == Windows{4096});
    CHECK(with({{"sliding_window", {nullptr, 4}}}).windows == Windows{no_window, 4});
    CHECK(refusal(with, {{"sliding_window", 0}}) ==
          "config.json: sliding_window is 0, expected an integer from 1 to 1099511627776");
    CHECK(refusal(with, {{"sliding_window", {8, -1}}}) ==
          "config.json: sliding_window[1] is -1, expected an integer from 1 to 1099511627776");
    CHECK(refusal(with, {{"sliding_window", nlohmann::json::array()}}) ==
          "config.json: sliding_window is a list of 0, expected a window at least");
    CHECK(refusal(with, {{"sliding_window", {8, 8, 8}}}) ==
          "config.json: there are 3 windows, expected at most one per layer, of which there are 2");
    CHECK_FALSE(refusal(with, {{"sliding_window", "8"}}).empty());
    CHECK_FALSE(refusal(with, {{"sliding_window", false}}).empty());
}

TEST_CASE("layer_types says which layers have the window") {
    CHECK(with({{"layer_types", {"full_attention", "sliding_attention"}}}).windows == Windows{no_window, 8});
    CHECK(with({{"layer_types", {"sliding_attention", "sliding_attention"}}}).windows == Windows{8, 8});
    CHECK(with({{"layer_types", {"full_attention", "full_attention"}}, {"sliding_window", nullptr}}).windows ==
          Windows{no_window, no_window});
    CHECK(with({{"layer_types", nullptr}}).windows == Windows{8});
    CHECK(refusal(with, {{"layer_types", {"full_attention"}}}) ==
          "config.json: layer_types is a list of 1, expected a list of 2");
    CHECK(refusal(with, {{"layer_types", {"full_attention", "chunked_attention"}}}) ==
          "config.json: layer_types[1] is \"chunked_attention\", expected \"sliding_attention\" or \"full_attention\"");
    CHECK(refusal(with, {{"layer_types", {"full_attention", "sliding_attention"}}, {"sliding_window", nullptr}}) ==
          "config.json: layer_types[1] is \"sliding_attention\", expected \"full_attention\": there is no "
          "sliding_window");
    CHECK(refusal(with, {{"layer_types", {"full_attention", "full_attention"}}, {"sliding_window", {8, 4}}}) ==
          "config.json: layer_types is a list of 2, expected nothing: sliding_window is a list already");
}

TEST_CASE("a llama has no windows, whatever its file says of them") {
    for (const nlohmann::json& window : {nlohmann::json(8), nlohmann::json({8, 4}), nlohmann::json("none")})
        CHECK(with({{"model_type", "llama"}, {"sliding_window", window}}).windows == Windows{no_window});
    CHECK(with({{"model_type", "llama"}, {"layer_types", {"sliding_attention", "full_attention"}}}).windows ==
          Windows{no_window});
}

TEST_CASE("rope_theta stands alone or in rope_parameters, and other rotations are refused") {
    CHECK(without("rope_theta").rope_theta == 1e4);
    CHECK(with({{"rope_theta", 1000000}}).rope_theta == 1e6);
    const auto only = [](const nlohmann::json& rope) {
        nlohmann::json all = files::read_json(files::hugging_face / "config.json");
        all.erase("rope_theta");
        all.update(rope);
        return config_json(all.dump());
    };
    CHECK(only({{"rope_parameters", {{"rope_theta", 5e5}, {"rope_type", "default"}}}}).rope_theta == 5e5);
    CHECK(only({{"rope_scaling", {{"rope_theta", 5e5}, {"type", "default"}}}}).rope_theta == 5e5);
    CHECK(only({{"rope_parameters", nullptr}, {"rope_scaling", nullptr}}).rope_theta == 1e4);
    CHECK(with({{"rope_parameters", {{"rope_theta", 1e4}}}}).rope_theta == 1e4);
    CHECK(refusal(with, {{"rope_parameters", {{"rope_theta", 5e5}}}}) ==
          "config.json: rope_theta is 10000.0, expected the same rope_theta as elsewhere in the file");
    CHECK(refusal(only, {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}) ==
          "config.json: rope_scaling.factor is not supported: expected a rope_theta only");
    CHECK(refusal(only, {{"rope_parameters", {{"rope_type", "yarn"}}}}) ==
          "config.json: rope_parameters.rope_type is \"yarn\", expected \"default\": scaled rotary embeddings are not "
          "supported");
    CHECK_FALSE(refusal(only, {{"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}}}}}}).empty());
    CHECK_FALSE(refusal(only, {{"rope_parameters", {{"rope_theta", 1e6}, {"partial_rotary_factor", 0.5}}}}).empty());
    CHECK(only({{"rope_parameters", {{"rope_theta", 1e6}, {"partial_rotary_factor", 1.0}}}}).rope_theta == 1e6);
    CHECK_FALSE(refusal(with, {{"partial_rotary_factor", 0.25}}).empty());
    CHECK_FALSE(refusal(with, {{"rope_theta", 0}}).empty());
    CHECK_FALSE(refusal(with, {{"rope_theta", -1e4}}).empty());
    CHECK_FALSE(refusal(with, {{"rope_scaling", "default"}}).empty());
}

TEST_CASE("features that are not implemented are refused by name") {
    for (const char* feature : {"attention_bias", "mlp_bias", "use_qk_norm"}) {
        CAPTURE(feature);
        CHECK(refusal(with, {{feature, true}}) ==
              concat("config.json: ", feature, " is not supported: expected false, null or nothing"));
        CHECK(refusal(with, {{feature, false}}).empty());
        CHECK(refusal(with, {{feature, nullptr}}).empty());
    }
    CHECK_FALSE(refusal(with, {{"quantization_config", {{"bits", 4}}}}).empty());
    CHECK_FALSE(refusal(with, {{"num_local_experts", 8}}).empty());
    CHECK(refusal(with, {{"hidden_act", "gelu"}}) == "config.json: hidden_act is \"gelu\", expected \"silu\"");
    CHECK(refusal(with, {{"model_type", "mixtral"}}) ==
          "config.json: model_type is \"mixtral\", expected \"mistral\" or \"llama\"");
    CHECK(message_of([] { return without("model_type"); }) == "config.json: model_type is missing");
    CHECK(refusal(with, {{"dtype", "int8"}}) ==
          "config.json: dtype is \"int8\", expected float32, float16, bfloat16 or float64");
}

TEST_CASE("head_dim is given, or follows from the width") {
    CHECK(with({{"head_dim", 32}}).head_dim == 32);
    CHECK(with({{"head_dim", nullptr}}).head_dim == 16);
    CHECK(refusal(with, {{"head_dim", 15}}) ==
          "config.json: the heads have 15 elements, expected an even number, since pairs of them are rotated");
    CHECK(refusal(with, {{"hidden_size", 65}}) ==
          "config.json: hidden_size is 65, expected a multiple of num_attention_heads, which is 4, or a head_dim");
    CHECK(with({{"hidden_size", 65}, {"head_dim", 16}}).hidden_size == 65);
    CHECK(refusal(with, {{"num_key_value_heads", 3}}) ==
          "config.json: 4 query heads share 3 key/value heads, expected a divisor");
    CHECK(with({{"num_key_value_heads", nullptr}, {"num_attention_heads", 8}}).kv_heads == 8);
}

TEST_CASE("tokens are one, several or none") {
    CHECK(with({{"eos_token_id", 5}}).eos_tokens == std::vector<Token>{5});
    CHECK(with({{"eos_token_id", {2, 7}}}).eos_tokens == std::vector<Token>{2, 7});
    CHECK(with({{"eos_token_id", nullptr}}).eos_tokens.empty());
    CHECK(without("eos_token_id").eos_tokens == std::vector<Token>{2});
    CHECK(with({{"bos_token_id", 3}}).bos_token == 3);
    CHECK(with({{"bos_token_id", nullptr}}).bos_token == -1);
    CHECK(refusal(with, {{"eos_token_id", {2, 320}}}) ==
          "config.json: eos_token_id[1] is 320, expected an integer from 0 to 319");
    CHECK_FALSE(refusal(with, {{"bos_token_id", -1}}).empty());
}

TEST_CASE("every size must be a positive integer of a believable magnitude") {
    for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                            "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"})
        for (const nlohmann::json& value :
             {nlohmann::json(0), nlohmann::json(-4), nlohmann::json(4.0), nlohmann::json("4"), nlohmann::json(true),
              nlohmann::json(std::int64_t{1} << 41), nlohmann::json(std::uint64_t{1} << 63), nlohmann::json({4})}) {
            CAPTURE(key);
            CAPTURE(value.dump());
            CHECK(files::contains(refusal(with, {{key, value}}), concat("config.json: ", key, " is ")));
        }
    for (const nlohmann::json& eps : {nlohmann::json(0), nlohmann::json(-1e-5), nlohmann::json(1),
                                      nlohmann::json("1e-5"), nlohmann::json(nullptr), nlohmann::json(true)})
        CHECK(files::contains(refusal(with, {{"rms_norm_eps", eps}}), "expected a number between 0 and 1"));
    CHECK(refusal(with, {{"tie_word_embeddings", "yes"}}) ==
          "config.json: tie_word_embeddings is \"yes\", expected true or false");
}

TEST_CASE("config.json may hold anything else") {
    CHECK(with({{"unheard_of", {{"nested", {1, 2}}}}, {"use_cache", true}}) == with(nlohmann::json::object()));
}

TEST_CASE("params.json without rope_theta is certain only for the window of 4096") {
    const auto without_theta = [](const nlohmann::json& window) {
        nlohmann::json all = files::read_json(files::consolidated / "params.json");
        all.erase("rope_theta");
        all["sliding_window"] = window;
        return params_json(all.dump());
    };
    CHECK(without_theta(4096).rope_theta == 1e4);
    const std::string message =
        "params.json: rope_theta is missing, which is certain to mean 10000 only where sliding_window is 4096";
    CHECK(refusal(without_theta, 8) == message);
    CHECK(refusal(without_theta, nullptr) == message);
}

TEST_CASE("windows in params.json are missing, a number or a list, under either name") {
    CHECK(params_without("sliding_window").windows == Windows{no_window});
    CHECK(params_with({{"sliding_window", nullptr}}).windows == Windows{no_window});
    CHECK(params_with({{"n_layers", 36}, {"sliding_window", {nullptr, 32768, 32768, 32768}}}).windows ==
          Windows{no_window, 32768, 32768, 32768});
    CHECK(params_with({{"sliding_window", nullptr}, {"_sliding_window", 16}}).windows == Windows{16});
    CHECK_FALSE(refusal(params_with, {{"_sliding_window", 16}}).empty());
    CHECK_FALSE(refusal(params_with, {{"sliding_window", 0}}).empty());
}

TEST_CASE("params.json with anything unknown is refused, unless it is off") {
    for (const char* feature : {"moe", "quantization", "lora", "vision_encoder", "yarn", "use_biases", "unheard_of"}) {
        CAPTURE(feature);
        CHECK(refusal(params_with, {{feature, {{"num_experts", 8}}}}) ==
              concat("params.json: ", feature, " is not supported: it may change what the model computes"));
        CHECK(refusal(params_with, {{feature, false}}).empty());
        CHECK(refusal(params_with, {{feature, nullptr}}).empty());
    }
    CHECK(refusal(params_with, {{"model_type", "mamba"}}) ==
          "params.json: model_type is \"mamba\", expected \"transformer\"");
    CHECK(refusal(params_with, {{"causal", false}}) == "params.json: causal is false, expected true");
    CHECK(params_with({{"model_type", "transformer"}, {"causal", true}, {"max_batch_size", 0}}) ==
          params_with(nlohmann::json::object()));
}

TEST_CASE("params.json must give every size") {
    for (const char* key :
         {"dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads", "norm_eps", "vocab_size"}) {
        CAPTURE(key);
        CHECK(message_of([&] { return params_without(key); }) == concat("params.json: ", key, " is missing"));
        CHECK(files::contains(refusal(params_with, {{key, 0}}), concat("params.json: ", key, " is 0")));
    }
    CHECK(params_with(nlohmann::json::object()).max_positions == 32768);
    CHECK(params_with({{"max_seq_len", 1000}}).max_positions == 1000);
    CHECK(params_with({{"max_seq_len", 1000}, {"max_position_embeddings", 2000}}).max_positions == 2000);
    CHECK(params_with({{"tied_embeddings", true}}).tied_embeddings);
}

TEST_CASE("a config that is no object is refused") {
    CHECK(message_of([] { return config_json("[]"); }) == "config.json is a list of 0, expected an object");
    CHECK(message_of([] { return params_json("5"); }) == "params.json is 5, expected an object");
}

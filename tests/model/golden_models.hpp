#pragma once

#include <mistral/model/mistral_model.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "goldens.hpp"

/// Whole models whose logits transformers computed.
namespace goldens {

using mistral::Token;

/// A golden checkpoint: transformers' tokens and logits, and what is known of them.
struct Golden {
    nlohmann::json about;
    std::string directory;
    std::vector<Token> tokens;
    plain::Matrix exact;    // float64
    plain::Matrix float32;  // transformers as it comes

    static std::vector<Golden> all() {
        const std::string root = MISTRAL_TEST_DATA "/reference/";
        const auto list = nlohmann::json::parse(std::ifstream(root + "goldens.json")).at("configs");
        std::vector<Golden> result;
        for (const auto& about : list) {
            const std::string directory = root + about.at("name").get<std::string>();
            const File file(directory + "/logits.safetensors");
            const auto tokens = file.matrix("tokens").values;
            result.push_back({about,
                              directory,
                              {tokens.begin(), tokens.end()},
                              file.matrix("logits_f64"),
                              file.matrix("logits_f32")});
        }
        return result;
    }
};

/// Logits [tokens, vocab_size] of `tokens` in the given chunks, the last of which repeats until all are consumed.
template <class Model, class C = mistral::DefaultCacheScalar<typename Model::WeightScalar>>
std::vector<typename Model::A> logits_of(const Model& model, std::span<const Token> tokens,
                                         std::span<const Index> chunks,
                                         typename Model::template State<C>* given = nullptr) {
    using A = typename Model::A;
    typename Model::template State<C> fresh(model.device(), model.config());
    auto& state = given ? *given : fresh;
    const auto count = static_cast<Index>(tokens.size());
    const Index vocab = model.config().vocab_size;
    std::vector<A> logits(static_cast<std::size_t>(count * vocab));
    for (Index done = 0, i = 0; done < count; ++i) {
        const Index chunk = chunks[static_cast<std::size_t>(std::min(i, static_cast<Index>(chunks.size()) - 1))];
        const Index n = std::min(chunk, count - done);
        model.template forward<C>(tokens.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(n)), state,
                                  {logits.data() + done * vocab, n, vocab});
        done += n;
    }
    return logits;
}

}  // namespace goldens

#include <mistral/checkpoint/model_tensors.hpp>

#include <doctest/doctest.h>

#include <set>
#include <string>

#include "files.hpp"

using namespace mistral;

namespace {

const Config tiny{.layers = 2,
                  .hidden_size = 64,
                  .intermediate_size = 96,
                  .query_heads = 4,
                  .kv_heads = 2,
                  .head_dim = 16,
                  .vocab_size = 320};

}  // namespace

TEST_CASE("names and shapes are those of files in either layout") {
    const auto check = [](const files::Path& file, std::string ModelTensor::*name) {
        const auto expected = files::read_safetensors(file);
        const auto tensors = model_tensors(tiny);
        REQUIRE(tensors.size() == expected.size());
        for (const files::Tensor& tensor : expected) {
            CAPTURE(tensor.name);
            int found = 0;
            for (const ModelTensor& candidate : tensors)
                found += candidate.*name == tensor.name &&
                         candidate.shape == std::vector<Index>(tensor.shape.begin(), tensor.shape.end());
            CHECK(found == 1);
        }
    };
    check(files::hugging_face / "model.safetensors", &ModelTensor::name);
    check(files::consolidated / "consolidated.safetensors", &ModelTensor::consolidated_name);
}

TEST_CASE("the two names of a tensor stand for the same numbers") {
    const auto bytes = [](const files::Path& file, const std::string& name) {
        for (const files::Tensor& tensor : files::read_safetensors(file))
            if (tensor.name == name) return tensor.bytes;
        return std::string();
    };
    for (const ModelTensor& tensor : model_tensors(tiny)) {
        // The rows of these differ in their order, as the rotary pairing does.
        if (tensor.name.ends_with("q_proj.weight") || tensor.name.ends_with("k_proj.weight")) continue;
        CAPTURE(tensor.name);
        const std::string one = bytes(files::hugging_face / "model.safetensors", tensor.name);
        CHECK_FALSE(one.empty());
        CHECK(one == bytes(files::consolidated / "consolidated.safetensors", tensor.consolidated_name));
    }
}

TEST_CASE("a model with tied embeddings has no output projection") {
    Config tied = tiny;
    tied.tied_embeddings = true;
    CHECK(model_tensors(tied).size() + 1 == model_tensors(tiny).size());
    for (const ModelTensor& tensor : model_tensors(tied)) CHECK(tensor.name != "lm_head.weight");
}

#include <mistral/checkpoint/checkpoint.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#include <sys/stat.h>
#endif

#include "files.hpp"

using namespace mistral;
using files::consolidated;
using files::hugging_face;
using files::sharded;

namespace {

namespace fs = std::filesystem;
using Tensors = std::vector<files::Tensor>;

void copy_into(const files::Path& from, const files::Path& to) {
    fs::create_directories(to);
    for (const auto& entry : fs::directory_iterator(from)) fs::copy_file(entry.path(), to / entry.path().filename());
}

std::string refusal(const files::Path& directory) {
    return message_of([&] { return Checkpoint::open(directory); });
}

/// A copy of the tiny Hugging Face model with its tensors changed.
template <class Change>
void write_changed(const files::Path& directory, Change&& change) {
    copy_into(hugging_face, directory);
    auto tensors = files::read_safetensors(hugging_face / "model.safetensors");
    change(tensors);
    files::write(directory / "model.safetensors", files::safetensors(tensors));
}

/// The message for the tiny Hugging Face model with its tensors changed, without the directory that it begins with.
template <class Change>
std::string refusal_of_changed(Change&& change) {
    const files::ScratchDirectory scratch;
    write_changed(scratch / "model", change);
    const std::string message = refusal(scratch / "model");
    const std::string prefix = (scratch / "model").string();
    return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
}

files::Tensor& find(Tensors& tensors, const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(),
                         [&](const files::Tensor& tensor) { return tensor.name == name; });
}

std::string bytes_of(const TensorView& tensor) {
    return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
}

}  // namespace

TEST_CASE("the three layouts give the same tensors under the same names") {
    const Checkpoint one = Checkpoint::open(hugging_face);
    const Checkpoint two = Checkpoint::open(sharded);
    const Checkpoint three = Checkpoint::open(consolidated);
    CHECK(one.config() == two.config());
    CHECK(one.config().rotary_pairing == RotaryPairing::halves);
    CHECK(three.config().rotary_pairing == RotaryPairing::adjacent);
    REQUIRE(one.tensors().size() == 21);
    CHECK(two.tensors().size() == 21);
    CHECK(three.tensors().size() == 21);
    for (const auto& entry : one.tensors()) {
        const auto& name = entry.first;
        const TensorView& tensor = entry.second;
        CAPTURE(name);
        CHECK(bytes_of(tensor) == bytes_of(two.tensor(name)));
        CHECK(tensor.shape == three.tensor(name).shape);
        const bool permuted = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
        CHECK((bytes_of(tensor) == bytes_of(three.tensor(name))) != permuted);
    }
    CHECK(three.tensor("model.norm.weight").origin ==
          (consolidated / "consolidated.safetensors").string() + ": norm.weight");
}

TEST_CASE("every reference model opens") {
    int opened = 0;
    for (const auto& entry : fs::directory_iterator(files::reference)) {
        if (!entry.is_directory()) continue;
        CAPTURE(entry.path().string());
        CHECK(refusal(entry.path()) == "");
        ++opened;
    }
    CHECK(opened >= 18);
    CHECK(refusal(MISTRAL_MODELS "/shakespeare") == "");
}

TEST_CASE("a tensor that the model does not have cannot be asked for") {
    const Checkpoint checkpoint = Checkpoint::open(hugging_face);
    CHECK(message_of([&] { return checkpoint.tensor("model.layers.2.mlp.up_proj.weight"); }) ==
          hugging_face.string() + " has no tensor \"model.layers.2.mlp.up_proj.weight\"");
}

TEST_CASE("a tensor keeps its file mapped when the checkpoint is gone") {
    const TensorView tensor = Checkpoint::open(hugging_face).tensor("model.norm.weight");
    auto expected = files::read_safetensors(hugging_face / "model.safetensors");
    CHECK(bytes_of(tensor) == find(expected, "model.norm.weight").bytes);
}

TEST_CASE("a directory of both kinds, as that of v0.3, is read as Hugging Face's and nothing is mixed") {
    const files::ScratchDirectory scratch;
    copy_into(sharded, scratch / "both");
    copy_into(consolidated, scratch / "both");
    const Checkpoint both = Checkpoint::open(scratch / "both");
    CHECK(both.config().rotary_pairing == RotaryPairing::halves);
    CHECK(both.tensors().size() == 21);
    for (const auto& [name, tensor] : both.tensors()) CHECK_FALSE(files::contains(tensor.origin, "consolidated"));
}

TEST_CASE("a directory with both configs but the weights of one kind is read as that kind") {
    const files::ScratchDirectory scratch;
    copy_into(consolidated, scratch / "model");
    fs::copy_file(hugging_face / "config.json", scratch / "model" / "config.json");
    CHECK(Checkpoint::open(scratch / "model").config().rotary_pairing == RotaryPairing::adjacent);
}

TEST_CASE("a whole file counts before an index, and shards that no index names are not looked at") {
    const files::ScratchDirectory scratch;
    copy_into(hugging_face, scratch / "model");
    files::write(scratch / "model" / "model.safetensors.index.json", "nonsense");
    files::write(scratch / "model" / "model-00009-of-00009.safetensors", "nonsense");
    CHECK(refusal(scratch / "model") == "");
}

TEST_CASE("consolidated files may be sharded, too") {
    const files::ScratchDirectory scratch;
    copy_into(consolidated, scratch / "model");
    auto tensors = files::read_safetensors(consolidated / "consolidated.safetensors");
    fs::remove(scratch / "model" / "consolidated.safetensors");
    nlohmann::json map;
    for (std::size_t i = 0; i < tensors.size(); ++i) map[tensors[i].name] = i < 10 ? "a.safetensors" : "b.safetensors";
    files::write(scratch / "model" / "consolidated.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
    files::write(scratch / "model" / "a.safetensors",
                 files::safetensors(Tensors{tensors.begin(), tensors.begin() + 10}));
    files::write(scratch / "model" / "b.safetensors", files::safetensors(Tensors{tensors.begin() + 10, tensors.end()}));
    CHECK(refusal(scratch / "model") == "");
}

TEST_CASE("the index and the shards must agree") {
    const files::ScratchDirectory scratch;
    const auto model = scratch / "model";
    copy_into(sharded, model);
    const auto index = files::read_json(sharded / "model.safetensors.index.json");
    const auto refusal_of = [&](const nlohmann::json& patch) {
        auto changed = index;
        changed.merge_patch(patch);
        files::write(model / "model.safetensors.index.json", changed.dump());
        return refusal(model);
    };
    const std::string first = "model-00001-of-00002.safetensors";
    const std::string second = "model-00002-of-00002.safetensors";
    CHECK(refusal_of({{"weight_map", {{"model.norm.weight", first}}}}) ==
          (model / first).string() +
              " lacks the tensor \"model.norm.weight\", which model.safetensors.index.json says it holds");
    CHECK(refusal_of({{"weight_map", {{"model.norm.weight", nullptr}}}}) ==
          (model / second).string() + ": model.norm.weight is not listed in model.safetensors.index.json");
    CHECK(files::contains(refusal_of({{"weight_map", {{"model.norm.weight", "missing"}}}}),
                          (model / "missing").string() + " cannot be opened: "));
    CHECK(files::contains(refusal_of({{"weight_map", {{"model.norm.weight", "../" + second}}}}),
                          "expected the plain name of a file beside the index"));
    CHECK(refusal_of({{"metadata", nullptr}}) == "");
}

TEST_CASE("shards that were cut short are refused before they are read") {
    const files::ScratchDirectory scratch;
    copy_into(sharded, scratch / "model");
    const auto shard = scratch / "model" / "model-00002-of-00002.safetensors";
    for (const std::uintmax_t size : {67'191u, 40'000u, 4096u, 2000u, 9u, 8u, 7u, 0u}) {
        fs::resize_file(shard, size);
        CAPTURE(size);
        CHECK(files::contains(refusal(scratch / "model"), shard.string()));
    }
}

TEST_CASE("a tensor of another shape is refused with what was found and what was expected") {
    CHECK(refusal_of_changed([](auto& tensors) {
              find(tensors, "lm_head.weight").shape = {64, 320};
          }) == "/model.safetensors: lm_head.weight has the shape [64, 320], expected [320, 64]");
    CHECK(refusal_of_changed([](auto& tensors) {
              find(tensors, "model.norm.weight").shape = {1, 64};
          }) == "/model.safetensors: model.norm.weight has the shape [1, 64], expected [64]");
    CHECK(refusal_of_changed([](auto& tensors) {
              find(tensors, "model.layers.1.self_attn.k_proj.weight").shape = {16, 128};
          }) ==
          "/model.safetensors: model.layers.1.self_attn.k_proj.weight has the shape [16, 128], expected [32, 64]");
}

TEST_CASE("a missing tensor is refused by the name that the file would have") {
    CHECK(refusal_of_changed([](auto& tensors) {
              find(tensors, "model.norm.weight").name = "model.rotary_emb.inv_freq";
          }) == " lacks the tensor model.norm.weight");
    const files::ScratchDirectory scratch;
    copy_into(consolidated, scratch / "model");
    auto params = files::read_json(consolidated / "params.json");
    params["n_layers"] = 3;
    files::write(scratch / "model" / "params.json", params.dump());
    CHECK(refusal(scratch / "model") ==
          (scratch / "model").string() + " lacks the tensor layers.2.attention_norm.weight");
}

TEST_CASE("rotary frequencies are ignored, every other tensor that the model does not have is refused") {
    const auto with = [](const std::string& name) {
        return refusal_of_changed([&](auto& tensors) { tensors.push_back({name, "F32", {2}, "01234567"}); });
    };
    CHECK(with("model.layers.0.self_attn.rotary_emb.inv_freq") == "");
    CHECK(with("model.rotary_emb.inv_freq") == "");
    CHECK(with("rope.freqs") == "");
    CHECK(with("model.layers.0.self_attn.q_proj.bias") ==
          "/model.safetensors: model.layers.0.self_attn.q_proj.bias is not a tensor of the model that config.json "
          "describes, which has 2 layers without biases: this model is not supported");
    CHECK_FALSE(with("model.layers.2.input_layernorm.weight").empty());
    CHECK_FALSE(with("model.layers.0.self_attn.q_proj.weight_scale").empty());
    CHECK_FALSE(with("").empty());
}

TEST_CASE("tensors that are not of floating point are refused") {
    CHECK(refusal_of_changed([](auto& tensors) { find(tensors, "model.norm.weight").dtype = "I16"; }) ==
          "/model.safetensors: model.norm.weight has the type I16, expected BF16, F16, F32 or F64");
}

TEST_CASE("the output projection may be left out only where the config says so") {
    const files::ScratchDirectory scratch;
    const auto drop = [](auto& tensors) {
        tensors.erase(tensors.begin() + (&find(tensors, "lm_head.weight") - tensors.data()));
    };
    write_changed(scratch / "model", drop);
    CHECK(refusal(scratch / "model") ==
          (scratch / "model").string() +
              " lacks the tensor lm_head.weight, and config.json does not say that it is tied");
    auto config = files::read_json(hugging_face / "config.json");
    config["tie_word_embeddings"] = true;
    files::write(scratch / "model" / "config.json", config.dump());
    const Checkpoint tied = Checkpoint::open(scratch / "model");
    CHECK(tied.config().tied_embeddings);
    CHECK(tied.tensors().size() == 20);
}

TEST_CASE("an output projection that is there is used, whatever the config says") {
    const files::ScratchDirectory scratch;
    copy_into(hugging_face, scratch / "model");
    auto config = files::read_json(hugging_face / "config.json");
    config["tie_word_embeddings"] = true;
    files::write(scratch / "model" / "config.json", config.dump());
    const Checkpoint both = Checkpoint::open(scratch / "model");
    CHECK_FALSE(both.config().tied_embeddings);
    CHECK(both.tensors().contains("lm_head.weight"));
}

TEST_CASE("a directory without a model is refused with what would have helped") {
    const files::ScratchDirectory scratch;
    const std::string holds_none = scratch.path().string() + " holds no model: ";
    CHECK(refusal(scratch.path()) ==
          holds_none +
              "expected config.json with model.safetensors or model.safetensors.index.json, or params.json with "
              "consolidated.safetensors or consolidated.safetensors.index.json");
    CHECK(files::contains(refusal(scratch / "missing"), (scratch / "missing").string() + " cannot be opened: "));
    files::write(scratch / "config.json", "{}");
    CHECK(refusal(scratch / "config.json") ==
          (scratch / "config.json").string() + " is not a directory, expected one with a model in it");
    files::write(scratch / "model.gguf", "GGUF");
    CHECK(files::contains(refusal(scratch.path()), holds_none + "model.gguf is GGUF, which is not supported"));
}

TEST_CASE("pickles are not read, and how to convert them is said") {
    const files::ScratchDirectory scratch;
    for (const auto& [name, advice] : {std::pair("pytorch_model-00001-of-00002.bin", "save_pretrained"),
                                       std::pair("consolidated.00.pth", "torch.load(\"consolidated.00.pth\"")}) {
        files::write(scratch / name, "\x80\x02}q\x01.");
        const std::string message = refusal(scratch.path());
        CHECK(files::contains(message, std::string(name) + " looks like a pickle"));
        CHECK(files::contains(message, advice));
        fs::remove(scratch / name);
    }
}

TEST_CASE("a file in place of the directory is refused with what to do instead") {
    const files::ScratchDirectory scratch;
    const auto advice = [&](const std::string& name) {
        files::write(scratch / name, "x");
        const std::string message = refusal(scratch / name);
        const std::string start = (scratch / name).string() + " is not a directory, expected one with a model in it";
        CHECK(message.starts_with(start));
        return message.substr(start.size());
    };
    CHECK(advice("model.safetensors") == ": give the one that holds the file");
    CHECK(advice("model.gguf") ==
          ": model.gguf is GGUF, which is not supported; expected the model's safetensors files");
    CHECK(files::contains(advice("pytorch_model.bin"), "pytorch_model.bin looks like a pickle"));
    CHECK(files::contains(advice("pytorch_model.bin"), "save_pretrained"));
    CHECK(files::contains(advice("consolidated.00.pth"), "torch.load(\"consolidated.00.pth\""));
    CHECK(advice("notes.txt") == "");
}

TEST_CASE("a config that is damaged is refused with its path") {
    const files::ScratchDirectory scratch;
    copy_into(hugging_face, scratch / "model");
    files::write(scratch / "model" / "config.json", "{\"model_type\": 5}");
    CHECK(refusal(scratch / "model") ==
          (scratch / "model" / "config.json").string() + ": model_type is 5, expected a text");
    files::write(scratch / "model" / "config.json", "");
    CHECK(files::contains(refusal(scratch / "model"), "config.json is not valid JSON"));
}

#if !defined(_WIN32)

TEST_CASE("links are followed inside the directory, into a hub cache's blobs, and nowhere else") {
    const files::ScratchDirectory scratch;
    copy_into(hugging_face, scratch / "cache" / "blobs");
    fs::rename(scratch / "cache" / "blobs" / "model.safetensors", scratch / "cache" / "blobs" / "0123abcd");
    const auto revision = scratch / "cache" / "snapshots" / "revision";
    fs::create_directories(revision);
    fs::create_symlink("../../blobs/config.json", revision / "config.json");
    fs::create_symlink("../../blobs/0123abcd", revision / "model.safetensors");
    CHECK(refusal(revision) == "");
    CHECK(Checkpoint::open(revision).tensor("model.norm.weight").origin ==
          (revision / "model.safetensors").string() + ": model.norm.weight");

    fs::create_directory_symlink(revision, scratch / "by_another_name");
    CHECK(refusal(scratch / "by_another_name") == "");

    const auto inside = scratch / "inside";
    copy_into(hugging_face, inside);
    fs::rename(inside / "model.safetensors", inside / "weights");
    fs::create_symlink("weights", inside / "model.safetensors");
    CHECK(refusal(inside) == "");

    const auto outside = scratch / "outside";
    fs::create_directory(outside);
    fs::copy_file(hugging_face / "config.json", outside / "config.json");
    fs::create_symlink("../cache/blobs/0123abcd", outside / "model.safetensors");
    CHECK(refusal(outside) ==
          (outside / "model.safetensors").string() + " is a link to " +
              (scratch / "cache" / "blobs" / "0123abcd").string() +
              ", expected a file in the directory: open the directory that holds the files, or copy them");

    fs::remove(revision / "model.safetensors");
    fs::create_symlink("../../../inside/weights", revision / "model.safetensors");
    CHECK(files::contains(refusal(revision), " is a link to "));
    fs::remove(revision / "model.safetensors");
    fs::create_symlink("../../blobs/nothing", revision / "model.safetensors");
    CHECK(files::contains(refusal(revision), " cannot be opened: "));
}

TEST_CASE("devices, pipes and directories in place of files are refused at once") {
    const files::ScratchDirectory scratch;
    const auto model = scratch / "model";
    fs::create_directory(model);
    fs::copy_file(hugging_face / "config.json", model / "config.json");
    fs::create_symlink("/dev/zero", model / "model.safetensors");
    CHECK(files::contains(refusal(model), " is a link to /dev/zero"));
    fs::remove(model / "model.safetensors");
    REQUIRE(::mkfifo((model / "model.safetensors").c_str(), 0600) == 0);
    CHECK(refusal(model) == (model / "model.safetensors").string() + " is not a regular file");
    fs::remove(model / "model.safetensors");
    fs::create_directory(model / "model.safetensors");
    CHECK(refusal(model) == (model / "model.safetensors").string() + " is not a regular file");
}

#endif

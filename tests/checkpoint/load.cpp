#include <mistral/checkpoint/load.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "device/cpu/architectures.hpp"
#include "files.hpp"
#include "kernels.hpp"

using namespace mistral;
using files::consolidated;
using files::hugging_face;
using files::sharded;

namespace {

namespace fs = std::filesystem;

Cpu device() {
    static const Cpu shared(2);
    return shared;
}

template <class S>
MistralModel<S> load(const files::Path& directory, const LoadOptions& options = {}) {
    return MistralModel<S>::load(directory, device(), options);
}

/// Whether a matrix holds what the file says, converted exactly, as the tiny model's numbers can be.
template <class T>
bool holds(const HostMatrix<T>& matrix, const files::Tensor& tensor) {
    if (tensor.dtype != "BF16") throw std::runtime_error(tensor.name + " is " + tensor.dtype);
    const Index rows = tensor.shape.size() == 1 ? 1 : tensor.shape[0];
    if (matrix.view.rows() != rows || matrix.view.cols() != tensor.shape.back()) return false;
    for (Index i = 0; i < rows * tensor.shape.back(); ++i) {
        std::uint16_t upper = 0;
        std::memcpy(&upper, tensor.bytes.data() + i * 2, 2);
        if (static_cast<double>(matrix.view.data()[i]) != std::bit_cast<float>(std::uint32_t{upper} << 16))
            return false;
    }
    return true;
}

/// Calls visit(name in the file, matrix) for all weights.
template <class S, class Visit>
void for_each(const ModelWeights<S, Cpu>& weights, Visit&& visit) {
    visit("model.embed_tokens.weight", weights.embedding);
    for (std::size_t layer = 0; layer < weights.blocks.size(); ++layer) {
        const std::string name = "model.layers." + std::to_string(layer) + ".";
        const auto& block = weights.blocks[layer];
        visit(name + "input_layernorm.weight", block.attention_norm);
        visit(name + "self_attn.q_proj.weight", block.attention.query);
        visit(name + "self_attn.k_proj.weight", block.attention.key);
        visit(name + "self_attn.v_proj.weight", block.attention.value);
        visit(name + "self_attn.o_proj.weight", block.attention.output);
        visit(name + "post_attention_layernorm.weight", block.feed_forward_norm);
        visit(name + "mlp.gate_proj.weight", block.feed_forward.gate);
        visit(name + "mlp.up_proj.weight", block.feed_forward.up);
        visit(name + "mlp.down_proj.weight", block.feed_forward.down);
    }
    visit("model.norm.weight", weights.norm);
    visit("lm_head.weight", weights.output);
}

template <class S>
ModelWeights<S, Cpu> weights_of(const Checkpoint& checkpoint) {
    const Cpu cpu = device();
    return WeightLoader<S, Cpu>(checkpoint, cpu, {}).load();
}

template <class S>
void check_weights() {
    CAPTURE(ScalarTraits<S>::name);
    const auto expected = files::read_safetensors(hugging_face / "model.safetensors");
    const Checkpoint checkpoint = Checkpoint::open(hugging_face);
    int found = 0;
    for_each(weights_of<S>(checkpoint), [&](const std::string& name, const auto& matrix) {
        using T = std::remove_cvref_t<decltype(matrix.view(0, 0))>;
        CAPTURE(name);
        for (const files::Tensor& tensor : expected)
            if (tensor.name == name) found += holds(matrix, tensor);
        const bool mapped = static_cast<const void*>(matrix.view.data()) == checkpoint.tensor(name).bytes.data();
        CHECK(mapped == std::is_same_v<T, bfloat16>);
        CHECK(matrix.owner != nullptr);
    });
    CHECK(found == 21);
}

/// Logits [tokens, vocab_size] of all tokens in one pass, with a cache that rounds nothing.
template <class Model>
std::vector<double> logits_of(const Model& model, const std::vector<Token>& tokens) {
    using A = typename Model::A;
    typename Model::template State<A> state(model.device(), model.config());
    const auto count = static_cast<Index>(tokens.size());
    std::vector<A> logits(tokens.size() * static_cast<std::size_t>(model.config().vocab_size));
    model.forward(tokens, state, MatrixView<A>(logits.data(), count, model.config().vocab_size));
    return {logits.begin(), logits.end()};
}

/// One case of tests/data/numeric/tiny_ref.json.
struct Golden {
    std::string name;
    double rope_theta;
    Index window;
    std::vector<Token> tokens;
    std::vector<double> logits;
};

std::vector<Golden> goldens() {
    const files::Path numeric = MISTRAL_TEST_DATA "/numeric";
    const auto reference = files::read_json(numeric / "tiny_ref.json");
    const auto tensors = files::read_safetensors(numeric / "tiny_ref_logits_f32.safetensors");
    std::vector<Golden> all;
    for (const auto& entry : reference.at("cases")) {
        Golden golden{entry.at("name"), entry.at("rope_theta"), entry.at("sliding_window"), reference.at("tokens"), {}};
        golden.tokens.resize(entry.at("n"));
        for (const files::Tensor& tensor : tensors)
            if (tensor.name == golden.name)
                for (std::size_t i = 0; i < tensor.bytes.size(); i += 4) {
                    float logit = 0;
                    std::memcpy(&logit, tensor.bytes.data() + i, 4);
                    golden.logits.push_back(static_cast<double>(logit));
                }
        all.push_back(std::move(golden));
    }
    return all;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
    if (a.size() != b.size() || a.empty()) return INFINITY;
    double largest = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (!std::isfinite(a[i])) return INFINITY;
        largest = std::max(largest, std::abs(a[i] - b[i]));
    }
    return largest;
}

/// A copy of a tiny model with another rope_theta, which is not for the caller of `load` to choose.
void write_with_theta(const files::Path& from, const files::Path& to, double rope_theta) {
    fs::create_directory(to);
    for (const auto& entry : fs::directory_iterator(from)) {
        const auto name = entry.path().filename();
        if (name != "config.json" && name != "params.json") {
            fs::copy_file(entry.path(), to / name);
            continue;
        }
        auto config = files::read_json(entry.path());
        config["rope_theta"] = rope_theta;
        files::write(to / name, config.dump());
    }
}

}  // namespace

TEST_CASE("weights of the type on disk stay mapped, others are converted, and all have the file's numbers") {
    check_weights<double>();
    check_weights<float>();
    check_weights<half>();
    check_weights<bfloat16>();
}

TEST_CASE("the logits are those of Mistral's reference, for each layout, theta and window") {
    const auto cases = goldens();
    REQUIRE(cases.size() == 4);
    for (const files::Path& directory : {consolidated, hugging_face, sharded})
        for (const Golden& golden : cases) {
            CAPTURE(directory.string());
            CAPTURE(golden.name);
            const files::ScratchDirectory scratch;
            write_with_theta(directory, scratch / "model", golden.rope_theta);
            const auto model = load<float>(scratch / "model", {.windows = std::vector<Index>{golden.window}});
            CHECK(largest_difference(logits_of(model, golden.tokens), golden.logits) <= 5e-5);
        }
}

TEST_CASE("the checkpoint's own window and theta are used where the caller says nothing") {
    const Golden golden = goldens().front();
    REQUIRE(golden.window == 8);
    REQUIRE(golden.rope_theta == 1e4);
    for (const files::Path& directory : {consolidated, hugging_face, sharded}) {
        CAPTURE(directory.string());
        CHECK(largest_difference(logits_of(load<double>(directory), golden.tokens), golden.logits) <= 5e-5);
        CHECK(load<float>(directory).config() == Checkpoint::open(directory).config());
    }
}

TEST_CASE("a file whose tensors lie at odd addresses is copied, and gives the same logits") {
    const files::ScratchDirectory scratch;
    write_with_theta(hugging_face, scratch / "model", 1e4);
    const std::string aligned = files::read(hugging_face / "model.safetensors");
    std::uint64_t length = 0;
    std::memcpy(&length, aligned.data(), sizeof(length));
    files::write(scratch / "model" / "model.safetensors",
                 files::safetensors(aligned.substr(8, length) + ' ', aligned.substr(8 + length)));

    const Checkpoint checkpoint = Checkpoint::open(scratch / "model");
    for_each(weights_of<bfloat16>(checkpoint), [&](const std::string& name, const auto& matrix) {
        CAPTURE(name);
        CHECK(reinterpret_cast<std::uintptr_t>(checkpoint.tensor(name).bytes.data()) % 2 == 1);
        CHECK(reinterpret_cast<std::uintptr_t>(matrix.view.data()) % alignof(bfloat16) == 0);
    });
    const auto check = [&]<class S>(S*) {
        const auto tokens = goldens().front().tokens;
        CHECK(logits_of(load<S>(scratch / "model"), tokens) == logits_of(load<S>(hugging_face), tokens));
    };
    check(static_cast<bfloat16*>(nullptr));
    check(static_cast<float*>(nullptr));
    check(static_cast<Q4*>(nullptr));
}

// The file holds bfloat16, which half holds, too: the differences are those of sums in another order, 4.8e-6 with
// bfloat16 and 5.8e-6 with half where this was written.
constexpr double of_16_bits = 5e-5;

TEST_CASE("weights of 16 bits give the logits of the same numbers in float") {
    const Golden golden = goldens().front();
    const auto model = MistralModel<bfloat16, FloatCpu>::load(consolidated, FloatCpu(2));
    CHECK(largest_difference(logits_of(model, golden.tokens), golden.logits) <= of_16_bits);
    CHECK(largest_difference(logits_of(load<half>(hugging_face), golden.tokens), golden.logits) <= of_16_bits);
}

TEST_CASE("the caller's windows replace the checkpoint's") {
    const auto windows = [](std::vector<Index> given) {
        return load<float>(hugging_face, {.windows = std::move(given)}).config().windows;
    };
    CHECK(windows({5}) == std::vector<Index>{5});
    CHECK(windows({no_window}) == std::vector<Index>{no_window});
    CHECK(windows({no_window, 4}) == std::vector<Index>{no_window, 4});
    CHECK(message_of([&] { return windows({}); }) ==
          "the windows to load a model with are an empty list, expected one at least");
    CHECK(message_of([&] {
              return windows({8, 0});
          }) == hugging_face.string() + ", layer 1: window is 0, expected a positive number");
    CHECK(message_of([&] { return windows({Dynamic}); }) ==
          hugging_face.string() + ", layer 0: window is -1, expected a positive number");
    CHECK(message_of([&] {
              return windows({8, -2});
          }) == hugging_face.string() + ", layer 1: window is -2, expected a positive number");
}

TEST_CASE("a checkpoint that contradicts the type is refused by name and number, before its weights are read") {
    int tensors = 0;
    const LoadOptions options{.progress = [&](const LoadProgress&) { ++tensors; }};
    CHECK(message_of([&] {
              return MistralModel<float, Cpu, Shape{.head_dim = 64}>::load(hugging_face, device(), options);
          }) == hugging_face.string() + ", layer 0: head_dim is 16, but the type fixes it to 64");
    CHECK(message_of([&] {
              return MistralModel<float, Cpu, Shape{.window = 4096}>::load(hugging_face, device(), options);
          }) == hugging_face.string() + ", layer 0: window is 8, but the type fixes it to 4096");
    CHECK(tensors == 0);
    constexpr Shape same{.window = 8, .query_heads = 4, .kv_heads = 2, .head_dim = 16};
    const auto model = MistralModel<float, Cpu, same>::load(hugging_face, device(), options);
    CHECK(tensors == 21);
    const Golden golden = goldens().front();
    CHECK(largest_difference(logits_of(model, golden.tokens), golden.logits) <= 5e-5);
}

TEST_CASE("progress counts every tensor of the model once") {
    for (const auto& [directory, tensors] : {std::pair(sharded, 21), std::pair(files::reference / "tied", 20)}) {
        std::vector<Index> done;
        std::vector<Index> totals;
        const auto model = load<float>(directory, {.progress = [&](const LoadProgress& progress) {
                                           done.push_back(progress.tensors_done);
                                           totals.push_back(progress.tensors);
                                       }});
        std::vector<Index> expected;
        for (Index i = 1; i <= tensors; ++i) expected.push_back(i);
        CHECK(done == expected);
        CHECK(totals == std::vector<Index>(expected.size(), tensors));
    }
}

TEST_CASE("a loading stops at once when it is asked to") {
    std::stop_source source;
    Index done = 0;
    const LoadOptions options{.progress =
                                  [&](const LoadProgress& progress) {
                                      done = progress.tensors_done;
                                      if (done == 5) source.request_stop();
                                  },
                              .stop = source.get_token()};
    CHECK_THROWS_AS(static_cast<void>(load<bfloat16>(hugging_face, options)), Cancelled);  // views only
    CHECK(done == 5);
    done = 0;
    CHECK_THROWS_AS(static_cast<void>(load<float>(hugging_face, options)), Cancelled);
    CHECK(done == 0);
}

TEST_CASE("an exception from the progress callback comes out as it is") {
    struct Unwanted {};
    CHECK_THROWS_AS(
        static_cast<void>(load<float>(hugging_face, {.progress = [](const LoadProgress&) { throw Unwanted(); }})),
        Unwanted);
}

TEST_CASE("tied embeddings are loaded once and used twice") {
    const Checkpoint checkpoint = Checkpoint::open(files::reference / "tied");
    REQUIRE(checkpoint.config().tied_embeddings);
    const auto weights = weights_of<bfloat16>(checkpoint);  // the file is of float32
    CHECK(weights.embedding.view.data() == weights.output.view.data());
    CHECK(weights.embedding.owner == weights.output.owner);
}

TEST_CASE("a model lives on when its directory is gone") {
    const files::ScratchDirectory scratch;
    write_with_theta(hugging_face, scratch / "model", 1e4);
    const auto model = MistralModel<bfloat16, FloatCpu>::load(scratch / "model", FloatCpu(2));
    fs::remove_all(scratch / "model");
    const Golden golden = goldens().front();
    CHECK(largest_difference(logits_of(model, golden.tokens), golden.logits) <= of_16_bits);
}

TEST_CASE("errors in the checkpoint come out of load") {
    const files::ScratchDirectory scratch;
    CHECK(files::contains(message_of([&] { return load<float>(scratch.path()); }), "holds no model"));
    CHECK(message_of([&] { return MistralModel<float>::load(scratch / "missing"); }) != "");
}

#if defined(__linux__)

TEST_CASE("a model of 14.5 GB in bfloat16 is opened without being read or copied") {
    constexpr Index layers = 32;
    const Config config{.layers = layers,
                        .hidden_size = 4096,
                        .intermediate_size = 14336,
                        .query_heads = 32,
                        .kv_heads = 8,
                        .head_dim = 128,
                        .vocab_size = 32000};
    nlohmann::json header = nlohmann::json::object();
    Index size = 0;
    for (const ModelTensor& tensor : model_tensors(config)) {
        const Index begin = size;
        size += 2 * (tensor.shape.size() == 2 ? tensor.shape[0] * tensor.shape[1] : tensor.shape[0]);
        header[tensor.name] = {{"dtype", "BF16"}, {"shape", tensor.shape}, {"data_offsets", {begin, size}}};
    }
    const files::ScratchDirectory scratch;
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    files::write(scratch / "model.safetensors", files::safetensors(text));
    std::error_code error;
    fs::resize_file(scratch / "model.safetensors", 8 + text.size() + static_cast<std::uintmax_t>(size), error);
    if (error) {
        MESSAGE("no sparse file of 14.5 GB can be made here: " << error.message());
        return;
    }
    files::write(scratch / "config.json", R"({"model_type": "mistral", "rms_norm_eps": 1e-5})");
    const auto resident_pages = [] {
        Index total = 0;
        Index resident = 0;
        std::ifstream("/proc/self/statm") >> total >> resident;
        return resident;
    };
    const Index before = resident_pages();
    const auto model = load<bfloat16>(scratch.path());
    CHECK(resident_pages() - before < (Index{64} << 20) / 4096);  // what sanitizers keep for themselves included
    CHECK(model.config().layers == layers);
    CHECK(size == 14'483'464'192);
}

#endif

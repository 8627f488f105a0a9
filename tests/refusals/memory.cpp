// What it costs to refuse a hostile file: at most 16 MiB beyond the file itself, counted at operator new, and nothing
// afterwards.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include <mistral/checkpoint/config_json.hpp>
#include <mistral/checkpoint/safetensors.hpp>
#include <mistral/checkpoint/shard_index.hpp>
#include <mistral/text/tokenizer.hpp>

#include <checkpoint/files.hpp>
#include <text/model_builder.hpp>
#include <watched_allocations.hpp>

using namespace mistral;
using watched::live_bytes;
using watched::peak_bytes;

namespace {

constexpr std::size_t most_bytes = std::size_t{16} << 20;

/// Every message begins with it, and every value of a JSON file knows it: as long as those of a hub cache.
const std::string name =
    "/home/somebody/.cache/huggingface/hub/models--mistralai--Mistral-7B-Instruct-v0.3/snapshots/"
    "e0bc86c23ce5aae1db576c8cca6f06f1f73af2db/model.safetensors.index.json";

struct Outcome {
    bool refused = false;
    std::size_t peak = 0;  ///< bytes beyond what was there before
    std::size_t left = 0;  ///< bytes that are still there when all is destroyed
};

template <class Read>
Outcome outcome_of(const Read& read) {
    Outcome outcome;
    const std::size_t before = live_bytes;
    peak_bytes = before;
    try {
        static_cast<void>(read());
    } catch (const Error&) {
        outcome.refused = true;
    }
    outcome.peak = peak_bytes - before;
    outcome.left = live_bytes - before;
    return outcome;
}

Outcome outcome_of_config(const std::string& file) {
    return outcome_of([&] { return ConfigReader::config_json(Json::parse(file, name)); });
}
Outcome outcome_of_params(const std::string& file) {
    return outcome_of([&] { return ConfigReader::params_json(Json::parse(file, name)); });
}
Outcome outcome_of_index(const std::string& file) {
    return outcome_of([&] { return read_shard_index(Json::parse(file, name)); });
}
Outcome outcome_of_safetensors(const std::string& file) {
    return outcome_of([&] { return Safetensors::parse(files::bytes_of(file), nullptr, name); });
}
Outcome outcome_of_tokenizer(const std::string& file) {
    Outcome outcome = outcome_of([&] { return Tokenizer::parse(files::bytes_of(file), name); });
    outcome.peak -= std::min(outcome.peak, file.size());  // its copy
    return outcome;
}

void check_refusal(const Outcome& outcome) {
    CHECK(outcome.refused);
    CHECK(outcome.peak <= most_bytes);
    CHECK(outcome.left == 0);
}

std::string repeated(std::string_view text, std::size_t times) {
    std::string all;
    all.reserve(text.size() * times);
    while (times-- > 0) all += text;
    return all;
}

/// A JSON object of as many entries as may be, each of `values` values: `key` with a number, and `value`. `end`, the
/// last entry, has up to ten.
std::string wide_object(const std::string& key, const std::string& value, Index values, const std::string& end) {
    constexpr std::size_t slack = 1000;
    std::string text = "{";
    for (Index i = 0; i < (JsonBuilder::max_values - 10) / values; ++i) {
        const std::string entry = concat("\"", key, i, "\":", value, ",");
        if (text.size() + entry.size() + slack > JsonBuilder::max_bytes) break;
        text += entry;
    }
    return text + end + "}";
}

}  // namespace

TEST_CASE("the counter counts what lives, and its peak") {
    const std::size_t before = live_bytes;
    const Outcome outcome = outcome_of([] { return std::string(1000, 'x') + std::string(5000, 'x'); });
    CHECK(outcome.peak >= 6000);
    CHECK(outcome.peak < 20'000);
    CHECK(outcome.left == 0);
    CHECK(live_bytes == before);
}

TEST_CASE("no malformed file of a checkpoint takes more than 16 MiB beyond itself") {
    int files_read = 0;
    for (const char* folder : {"config", "index", "safetensors"})
        for (const auto& entry : files::manifest(folder)) {
            CAPTURE(entry.dump());
            const std::string file = files::read(files::malformed / entry.at("file").get<std::string>());
            const bool is_config = std::string_view(folder) == "config", is_index = std::string_view(folder) == "index";
            const Outcome outcome = is_config  ? outcome_of_config(file)
                                    : is_index ? outcome_of_index(file)
                                               : outcome_of_safetensors(file);
            CHECK(outcome.refused == (entry.at("verdict") != "accept"));
            CHECK(outcome.peak <= most_bytes);
            CHECK(outcome.left == 0);
            ++files_read;
        }
    CHECK(files_read == 84);
}

TEST_CASE("JSON as large, deep and wide as may be does not either") {
    for (const std::string& text :
         {repeated("[", 1'000'000), repeated("{\"a\":", 200'000), "[" + repeated("{},", 300'000) + "1]",
          "[" + repeated("0,", 500'000) + "1]", "{\"a\":\"" + std::string(JsonBuilder::max_bytes - 6, 'x')}) {
        CAPTURE(text.substr(0, 10));
        check_refusal(outcome_of_config(text));
    }
    const std::string end = "\"end\":1", key(48, 'k'), value = '"' + std::string(48, 'v') + '"';
    for (const std::string& text : {wide_object(key, "0", 1, end), wide_object("", value, 1, end),
                                    wide_object(key, "[[]]", 2, end), wide_object("", "{\"dtype\":0}", 2, end)}) {
        CAPTURE(text.substr(0, 60));
        check_refusal(outcome_of_config(text));
        check_refusal(outcome_of_params(text));
        check_refusal(outcome_of_index("{\"weight_map\":" + text + "}"));
        check_refusal(outcome_of_safetensors(files::safetensors(text)));
        check_refusal(outcome_of_safetensors(files::safetensors("{\"__metadata__\":" + text + "}")));
    }
}

TEST_CASE("a header with as many tensors as may be does not either") {
    const std::string tensor = R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
    const std::string beyond = R"("end":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
    check_refusal(outcome_of_safetensors(files::safetensors(wide_object("t", tensor, 7, beyond))));
    check_refusal(outcome_of_safetensors(files::safetensors(wide_object(std::string(300, 't'), tensor, 7, beyond))));
}

TEST_CASE("a tokenizer with as many and as long pieces as may be does not either") {
    ModelBuilder many, too_many, long_ones;
    for (Index i = 3; i < SentencePieceParser::most_pieces; ++i) many.piece(concat("p", i));
    too_many = many;
    many.trainer_spec.varint(3, 1);  // refused at the very end
    too_many.piece("one more");
    for (int i = 0; i < 2000; ++i) long_ones.piece(concat(std::string(7990, 'x'), i));
    long_ones.trainer_spec.varint(41, 5);
    check_refusal(outcome_of_tokenizer(many.str()));
    check_refusal(outcome_of_tokenizer(too_many.str()));
    check_refusal(outcome_of_tokenizer(long_ones.str()));
    check_refusal(outcome_of_tokenizer(std::string(Tokenizer::most_bytes, '\x0a')));
    check_refusal(outcome_of_tokenizer(std::string(Tokenizer::most_bytes + 1, '\x0a')));
}

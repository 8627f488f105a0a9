#include <mistral/checkpoint/shard_index.hpp>

#include <doctest/doctest.h>

#include <string>

#include "files.hpp"

using namespace mistral;

TEST_CASE("an index gives the tensors of each shard") {
    const auto index = read_shard_index(
        Json::parse(R"({"metadata": {"total_size": 4}, "weight_map": {"a": "x", "c": "y", "b": "x"}})", "index.json"));
    CHECK(index == ShardIndex{{"x", {"a", "b"}}, {"y", {"c"}}});
}

TEST_CASE("only plain names name a file beside the index") {
    for (const char* name :
         {"model-00001-of-00003.safetensors", "a", "..a", "a..b", "...", "m o d.safetensors", "\xc3\xa9"})
        CHECK(is_plain_file_name(name));
    for (const char* name : {"", ".", "..", "/a", "a/b", "../a", "a\\b", "C:a", "a:stream", "a\nb", "a\x7f"}) {
        CAPTURE(name);
        CHECK_FALSE(is_plain_file_name(name));
    }
    CHECK_FALSE(is_plain_file_name(std::string_view("a\0b", 3)));
    CHECK(is_plain_file_name(std::string(255, 'a')));
    CHECK_FALSE(is_plain_file_name(std::string(256, 'a')));
}

TEST_CASE("malformed indices have the verdicts of the manifest") {
    for (const auto& entry : files::manifest("index")) {
        CAPTURE(entry.dump());
        const std::string text = files::read(files::malformed / entry.at("file").get<std::string>());
        const auto message = message_of([&] { return read_shard_index(Json::parse(text, "index.json")); });
        CHECK(message.empty() == (entry.at("verdict") == "accept"));
        CHECK(message.size() < 300);
    }
}

TEST_CASE("a shard's name is refused with the tensor, what was found and what was expected") {
    const auto refusal = [](const std::string& text) {
        return message_of([&] { return read_shard_index(Json::parse(text, "i.json")); });
    };
    CHECK(refusal(R"({"weight_map": {"t": "../x"}})") ==
          "i.json: weight_map.t is \"../x\", expected the plain name of a file beside the index");
    CHECK(refusal(R"({"weight_map": {"t": 5}})") == "i.json: weight_map.t is 5, expected a text");
    CHECK(refusal(R"({"weight_map": []})") == "i.json: weight_map is a list of 0, expected an object");
    CHECK(refusal("{}") == "i.json: weight_map is missing");
}

#include <mistral/text/tokenizer_file.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <string>

using namespace mistral;

namespace {

/// A directory that is gone after the test.
struct TemporaryDirectory {
    std::filesystem::path path = std::filesystem::temp_directory_path() / concat("mistral_", std::random_device{}());

    TemporaryDirectory() { std::filesystem::create_directory(path); }
    ~TemporaryDirectory() { std::filesystem::remove_all(path); }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

    void add(const std::string& name) const { std::ofstream(path / name) << "x"; }

    /// The name of the file that is found, or the message of the Error.
    [[nodiscard]] std::string found() const {
        try {
            return utf8(find_tokenizer_file(path).filename());
        } catch (const Error& error) {
            return error.what();
        }
    }
};

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("tokenizer.model is found first, then tokenizer.model.v3, then the only one with a version") {
    const TemporaryDirectory directory;
    CHECK(contains(directory.found(), "holds no tokenizer, expected tokenizer.model, tokenizer.model.v3, or one"));
    directory.add("tokenizer_config.json");
    directory.add("model.safetensors");
    directory.add("mine.model.v7");
    CHECK(contains(directory.found(), "holds no tokenizer"));
    directory.add("mine.model.v1");
    CHECK(directory.found() == "mine.model.v1");
    directory.add("other.model.v2");
    CHECK(contains(directory.found(), "holds several tokenizers, mine.model.v1 and other.model.v2 among them"));
    directory.add("tokenizer.model.v3");
    CHECK(directory.found() == "tokenizer.model.v3");
    directory.add("tokenizer.model");
    CHECK(directory.found() == "tokenizer.model");
}

TEST_CASE("tokenizers in JSON are refused by name") {
    const TemporaryDirectory directory;
    directory.add("tokenizer.json");
    CHECK(contains(directory.found(), "tokenizer.json is not supported, expected a SentencePiece model"));
    directory.add("tekken.json");
    CHECK(contains(directory.found(), "tekken.json is not supported"));
    CHECK_THROWS_AS((void)find_tokenizer_file(directory.path / "tekken.json"), Error);
    directory.add("tokenizer.model");
    CHECK(directory.found() == "tokenizer.model");
}

TEST_CASE("a file is taken as it is named") {
    CHECK(find_tokenizer_file("any/where.bin") == std::filesystem::path("any/where.bin"));
}

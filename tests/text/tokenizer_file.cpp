#include <mistral/text/tokenizer_file.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include <checkpoint/files.hpp>

using namespace mistral;

namespace {

/// A directory to find a tokenizer in.
struct Directory : files::ScratchDirectory {
    void add(const std::string& name) const { files::write(*this / name, "x"); }

    /// The name of the file that is found, or the message of the Error.
    [[nodiscard]] std::string found() const {
        try {
            return utf8(find_tokenizer_file(path()).filename());
        } catch (const Error& error) {
            return error.what();
        }
    }
};

}  // namespace

TEST_CASE("tokenizer.model is found first, then tokenizer.model.v3, then the only one with a version") {
    const Directory directory;
    CHECK(
        files::contains(directory.found(), "holds no tokenizer, expected tokenizer.model, tokenizer.model.v3, or one"));
    directory.add("tokenizer_config.json");
    directory.add("model.safetensors");
    directory.add("mine.model.v7");
    CHECK(files::contains(directory.found(), "holds no tokenizer"));
    directory.add("mine.model.v1");
    CHECK(directory.found() == "mine.model.v1");
    directory.add("other.model.v2");
    CHECK(files::contains(directory.found(), "holds several tokenizers, mine.model.v1 and other.model.v2 among them"));
    directory.add("tokenizer.model.v3");
    CHECK(directory.found() == "tokenizer.model.v3");
    directory.add("tokenizer.model");
    CHECK(directory.found() == "tokenizer.model");
}

TEST_CASE("tokenizers in JSON are refused by name") {
    const Directory directory;
    directory.add("tokenizer.json");
    CHECK(files::contains(directory.found(), "tokenizer.json is not supported, expected a SentencePiece model"));
    directory.add("tekken.json");
    CHECK(files::contains(directory.found(), "tekken.json is not supported"));
    CHECK_THROWS_AS((void)find_tokenizer_file(directory.path() / "tekken.json"), Error);
    directory.add("tokenizer.model");
    CHECK(directory.found() == "tokenizer.model");
}

TEST_CASE("a file is taken as it is named") {
    CHECK(find_tokenizer_file("any/where.bin") == std::filesystem::path("any/where.bin"));
}

#include <mistral/text/tokenizer.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <checkpoint/files.hpp>
#include <text/line_generator.hpp>
#include <text/models.hpp>

using namespace mistral;

namespace {

using Tokens = std::vector<Token>;
const std::vector<std::string> versions{"v1", "v2", "v3"};

Tokens encode(const std::string& version, std::string_view text) {
    return tokenizer(version).encode(text, {.bos = false});
}

std::string from_hex(const std::string& hex) {
    std::string bytes;
    for (std::size_t i = 0; i < hex.size(); i += 2)
        bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    return bytes;
}

std::string joined_pieces(const Tokenizer& tokenizer, std::span<const Token> tokens) {
    std::string text;
    for (const Token token : tokens) text += tokenizer.piece(token);
    return text;
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("every text of the goldens becomes sentencepiece's tokens, and these its text") {
    const auto goldens = read_json_lines(text_data + "encode_goldens.jsonl");
    REQUIRE(goldens.size() == 373);
    for (const auto& golden : goldens) {
        const auto text = golden["text"].get<std::string>();
        for (const auto& version : versions) {
            CAPTURE(text);
            CAPTURE(version);
            const auto tokens = golden[version].get<Tokens>();
            CHECK(encode(version, text) == tokens);
            CHECK(tokenizer(version).decode(tokens) == golden.value(version + "_decode", text));
        }
    }
}

TEST_CASE("each byte that belongs to no character becomes U+FFFD, as with sentencepiece") {
    for (const auto& golden : read_json_lines(text_data + "invalid_utf8_goldens.jsonl"))
        for (const auto& version : versions) {
            CAPTURE(golden["hex"]);
            CHECK(encode(version, from_hex(golden["hex"])) == golden[version].get<Tokens>());
        }
}

TEST_CASE("12 000 generated lines become sentencepiece's tokens and texts in all four models") {
    const auto goldens = read_json(text_data + "encode_hashes.json");
    LineGenerator generator(goldens["seed"], LineGenerator::read_fragments(text_data + "fragments.txt"));
    REQUIRE(goldens["models"].size() == 4);
    const auto per_block = goldens["lines_per_block"].get<std::size_t>();
    std::size_t lines = 0;
    for (std::size_t block = 0; block < goldens["line_hashes"].size(); ++block) {
        std::vector<std::string> texts;
        BlockHash hash;
        for (std::size_t i = 0; i < per_block; ++i) hash.add_text(texts.emplace_back(generator.line()));
        REQUIRE(hash.hex() == goldens["line_hashes"][block]);
        lines += texts.size();
        for (const auto& [name, hashes] : goldens["models"].items()) {
            const std::string version = name;
            BlockHash encoded, decoded;
            for (const std::string& text : texts) {
                const Tokens tokens = encode(version, text);
                encoded.add_tokens(tokens);
                decoded.add_text(tokenizer(version).decode(tokens));
            }
            CAPTURE(version);
            CAPTURE(block);
            CHECK(encoded.hex() == hashes["encoded"][block]);
            CHECK(decoded.hex() == hashes["decoded"][block]);
        }
    }
    CHECK(lines == 12000);
}

TEST_CASE("random tokens become the text that sentencepiece decodes") {
    const auto goldens = read_json(text_data + "encode_hashes.json");
    for (const auto& [version, hashes] : goldens["models"].items()) {
        LineGenerator generator(goldens["seed"].get<std::uint64_t>() + 1);
        const auto first_byte = static_cast<std::uint64_t>(*tokenizer(version).find("<0x00>"));
        REQUIRE(hashes["random_decoded"].size() == 30);
        for (const auto& expected : hashes["random_decoded"]) {
            BlockHash hash;
            for (int i = 0; i < 100; ++i)
                hash.add_text(tokenizer(version).decode(
                    generator.tokens(first_byte, static_cast<std::uint64_t>(tokenizer(version).vocab_size()))));
            CHECK(hash.hex() == expected);
        }
    }
}

TEST_CASE("the known hard cases of version 1 are exact") {
    CHECK(encode("v1", "\n") == Tokens{28705, 13});
    CHECK(encode("v1", "</s>") == Tokens{1867, 28713, 28767});
    CHECK(encode("v1", "").empty());
    CHECK(tokenizer("v1").decode(Tokens{28705, 13}) == "\n");
}

TEST_CASE("the text of a user becomes no control token, in no model") {
    for (const std::string version : {"v1", "v2", "v3", "shakespeare"}) {
        const Tokenizer& model = tokenizer(version);
        std::size_t controls = 0;
        for (Token control = 0; control < model.vocab_size(); ++control) {
            if (!model.is_control(control)) continue;
            for (const Token token : encode(version, concat("a", model.name(control), "b")))
                controls += model.is_control(token) ? 1 : 0;
        }
        CHECK(controls == 0);
    }
}

TEST_CASE("control pieces in a text are parsed where that is asked for") {
    const Tokenizer& model = tokenizer("v3");
    const EncodeOptions parse{.bos = false, .control = ControlText::parse};
    CHECK(model.encode("<s>[INST] hi[/INST]</s>", parse) == Tokens{1, 3, 29473, 12782, 4, 2});
    CHECK(model.encode("hi", parse) == encode("v3", "hi"));
    CHECK(model.encode("[INST", parse) == encode("v3", "[INST"));
    CHECK(model.encode("", parse).empty());
    CHECK(model.encode("<unk>", parse) == encode("v3", "<unk>"));
    CHECK(tokenizer("v1").encode("[INST]</s>", parse) == Tokens{733, 16289, 28793, 2});
}

TEST_CASE("what begins and ends a sequence is put where asked for") {
    const Tokenizer& model = tokenizer("v1");
    CHECK(model.encode("Hello") == Tokens{1, 22557});
    CHECK(model.encode("Hello", {.bos = false, .eos = true}) == Tokens{22557, 2});
    CHECK(model.encode("") == Tokens{1});
}

TEST_CASE("bytes that are not UTF-8 are kept or refused where asked for") {
    const Tokenizer& model = tokenizer("v3");
    const std::string text = "na\xEFve \xF0\x9F\x98";
    const Tokens tokens = model.encode(text, {.bos = false, .invalid = InvalidUtf8::bytes});
    CHECK(joined_pieces(model, tokens) == " " + text);
    CHECK(model.encode("na\xC3\xAFve", {.invalid = InvalidUtf8::refuse}) == model.encode("na\xC3\xAFve"));
    CHECK_THROWS_WITH_AS((void)model.encode(text, {.invalid = InvalidUtf8::refuse}),
                         "the text is not UTF-8: byte 2 is \"\\xef\", which is no part of a character", Error);
}

TEST_CASE("well-formed text comes back from its tokens") {
    LineGenerator generator(7, LineGenerator::read_fragments(text_data + "fragments.txt"));
    std::size_t lines = 0, different = 0;
    for (int i = 0; i < 2000; ++i) {
        const std::string line = generator.line();
        if (!Utf8::is_well_formed(line) || contains(line, std::string(piece_blank))) continue;
        ++lines;
        for (const auto& version : versions) different += tokenizer(version).decode(encode(version, line)) != line;
    }
    CHECK(lines > 800);
    CHECK(different == 0);
}

TEST_CASE("pieces are the bytes that tokens stand for, names are how the model spells them") {
    const Tokenizer& v1 = tokenizer("v1");
    CHECK(v1.name(272) == "\xE2\x96\x81the");
    CHECK(v1.piece(272) == " the");
    CHECK(v1.name(13) == "<0x0A>");
    CHECK(v1.piece(13) == "\n");
    CHECK(v1.piece(3) == std::string_view("\0", 1));
    CHECK(v1.piece(1).empty());
    CHECK(v1.piece(0) == " \xE2\x81\x87 ");
    CHECK(v1.find("\xE2\x96\x81the") == 272);
    CHECK(v1.find(" the") == std::nullopt);
    CHECK(tokenizer("v3").find("[INST]") == 3);
    CHECK(tokenizer("v3").is_control(3));
    CHECK_FALSE(tokenizer("v3").is_control(770));
    CHECK(v1.bos() == 1);
    CHECK(v1.eos() == 2);
    CHECK(v1.unknown() == 0);
    CHECK(v1.vocab_size() == 32000);
    CHECK(tokenizer("v3").vocab_size() == 32768);
}

TEST_CASE("numbers that are no tokens are refused") {
    const Tokenizer& v1 = tokenizer("v1");
    CHECK_THROWS_WITH_AS((void)v1.piece(32000), "token 32000 is not in the vocabulary, expected 0 to 31999", Error);
    CHECK_THROWS_AS((void)v1.name(-1), Error);
    CHECK_THROWS_AS((void)v1.is_control(40000), Error);
    CHECK_THROWS_AS((void)v1.decode(Tokens{1, 32000}), Error);
}

TEST_CASE("copies share the vocabulary, which outlives the original") {
    auto original = std::make_unique<Tokenizer>(Tokenizer::load(tokenizer_path("shakespeare")));
    const std::string_view piece = original->piece(300);
    const Tokenizer copy = *original;
    original.reset();
    CHECK(copy.piece(300).data() == piece.data());
}

// Quadratic time would be days, and end at the time limit of the test.
TEST_CASE("4 MiB of one letter are encoded") {
    for (const std::string letter : {"a", " ", "\xE4\xB8\xAD", "\xFF"}) {
        std::string text;
        while (text.size() < (4u << 20)) text += letter;
        const Tokens tokens = encode("v1", text);
        CHECK(tokens.size() > 1000);
        if (letter != "\xFF") CHECK(tokenizer("v1").decode(tokens) == text);
    }
}

TEST_CASE("a model is loaded from its file or its directory") {
    CHECK(Tokenizer::load(tokenizer_path("shakespeare")).vocab_size() == 2048);
    CHECK(Tokenizer::load(MISTRAL_MODELS "/shakespeare").vocab_size() == 2048);
}

#if !defined(_WIN32)

TEST_CASE("links are followed inside the directory, into a hub cache's blobs, and nowhere else") {
    namespace fs = std::filesystem;
    const files::ScratchDirectory scratch;
    const auto refusal = [](const fs::path& path) { return message_of([&] { return Tokenizer::load(path); }); };
    const auto revision = scratch / "cache" / "snapshots" / "revision";
    fs::create_directories(revision);
    fs::create_directory(scratch / "cache" / "blobs");
    fs::copy_file(tokenizer_path("shakespeare"), scratch / "cache" / "blobs" / "0123abcd");
    fs::create_symlink("../../blobs/0123abcd", revision / "tokenizer.model");
    CHECK(refusal(revision) == "");
    CHECK(refusal(revision / "tokenizer.model") == "");
    fs::create_directory_symlink(revision, scratch / "by_another_name");
    CHECK(refusal(scratch / "by_another_name") == "");

    const auto model = scratch / "model";
    fs::create_directory(model);
    fs::create_symlink("../cache/blobs/0123abcd", model / "tokenizer.model");
    CHECK(refusal(model) ==
          (model / "tokenizer.model").string() + " is a link to " +
              (scratch / "cache" / "blobs" / "0123abcd").string() +
              ", expected a file in the directory: open the directory that holds the files, or copy them");
    CHECK(refusal(model / "tokenizer.model") == "");  // who names the file itself trusts it
    fs::rename(model / "tokenizer.model", model / "mine.model.v1");
    CHECK(contains(refusal(model), " is a link to "));
    fs::create_symlink("nothing", model / "tokenizer.model");
    CHECK(contains(refusal(model), "tokenizer.model cannot be opened: "));
}

#endif

TEST_CASE("what is no file is refused") {
    CHECK_THROWS_AS((void)Tokenizer::load("/nowhere/tokenizer.model"), Error);
#ifndef _WIN32
    CHECK_THROWS_AS((void)Tokenizer::load("/dev/zero"), Error);
#endif
}

TEST_CASE("a model larger than any in circulation is refused unread") {
    const std::vector<std::byte> model(Tokenizer::most_bytes + 1);
    CHECK_THROWS_WITH_AS((void)Tokenizer::parse(model, "large"),
                         "large has 16777217 bytes, expected a SentencePiece model of at most 16777216", Error);
}

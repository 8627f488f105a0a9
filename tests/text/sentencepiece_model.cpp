#include <mistral/text/sentencepiece_model.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <string>

#include <message_of.hpp>
#include <text/line_generator.hpp>
#include <text/model_builder.hpp>
#include <text/models.hpp>

using namespace mistral;

namespace {

std::string error_of(const std::string& file) {
    return message_of([&] { return SentencePieceModel::parse(file, "test.model"); });
}

/// Builds a model that `spoil` has changed, and checks that the refusal says why.
void check_refused(const std::function<void(ModelBuilder&)>& spoil, const std::string& reason) {
    ModelBuilder builder;
    spoil(builder);
    const std::string error = error_of(builder.str());
    CAPTURE(error);
    CAPTURE(reason);
    CHECK(error.find(reason) != std::string::npos);
    CHECK(error.starts_with("test.model"));
    CHECK(error.size() < 400);
}

/// Whether `file` is refused, or else makes a tokenizer that encodes and decodes something of everything.
bool is_refused(const std::string& file) {
    try {
        const auto tokenizer = Tokenizer::parse(std::as_bytes(std::span(file)), "test.model");
        const auto tokens =
            tokenizer.encode("abcd abab  \xE2\x96\x81 [REFERENCE_DOC_0] \xFF\xF0\x9F\x98\x80 The end\n");
        (void)tokenizer.decode(tokens);
        for (Token token = 0; token < tokenizer.vocab_size(); token += 97) (void)tokenizer.piece(token);
        return false;
    } catch (const Error&) {
        return true;
    }
}

/// Changes one to four random bytes of a file, or cuts it, or repeats a part of it.
std::string mutated(std::string file, LineGenerator& random) {
    const auto position = [&] { return static_cast<std::size_t>(random.below(file.size())); };
    const auto kind = random.below(8);
    if (kind == 0) return file.substr(0, position());
    if (kind == 1) return file.insert(position(), file.substr(position(), random.below(64)));
    if (kind == 2) return file.erase(position(), 1 + random.below(16));
    for (auto left = 1 + random.below(4); left > 0; --left) file[position()] = static_cast<char>(random.below(256));
    return file;
}

}  // namespace

TEST_CASE("the malformed files are refused and the unusual ones read") {
    int files = 0;
    for (const auto& entry : read_json(text_data + "malformed/manifest.json")) {
        const std::string file = read_file(text_data + "malformed/" + entry["file"].get<std::string>());
        CAPTURE(entry.dump());
        CHECK(is_refused(file) == (entry["verdict"] == "reject"));
        ++files;
    }
    CHECK(files == 17);
}

TEST_CASE("what a model says is read") {
    const auto model = SentencePieceModel::parse(read_file(tokenizer_path("v3")), "v3");
    CHECK(model.pieces.size() == 32768);
    CHECK(model.pieces[3] == "[INST]");
    CHECK(model.type(0) == PieceType::unknown);
    CHECK(model.type(3) == PieceType::control);
    CHECK(model.type(770) == PieceType::user_defined);
    CHECK(model.type(771) == PieceType::byte);
    CHECK(model.type(1032) == PieceType::normal);
    CHECK(model.score(1027) == -1e9f);
    CHECK(model.byte_tokens[255] == 771 + 255);
    CHECK(model.byte_fallback);
    CHECK(model.whitespace.add_dummy_prefix);
    CHECK_FALSE(model.whitespace.remove_extra_whitespaces);
    CHECK(model.whitespace.escape_whitespaces);
    CHECK(model.unknown_surface == " \xE2\x81\x87 ");
}

TEST_CASE("what a model does not say has protobuf's defaults") {
    ModelBuilder builder;
    builder.normalizer_spec = {};
    builder.pieces.bytes(1, ProtobufWriter().bytes(1, "plain").str());
    const SentencePieceModel model = builder.parse();
    CHECK(model.whitespace.remove_extra_whitespaces);
    CHECK(model.whitespace.add_dummy_prefix);
    CHECK(model.whitespace.escape_whitespaces);
    CHECK(model.type(3) == PieceType::normal);
    CHECK(model.score(3) == 0);
    CHECK_FALSE(model.byte_fallback);
    CHECK(model.bos == 1);
    CHECK(model.eos == 2);
}

TEST_CASE("fields that nobody knows are skipped") {
    ModelBuilder builder;
    builder.trainer_spec.varint(99, 1).bytes(200, "x").float32(300, 1);
    builder.pieces.bytes(4, "self test data, not looked at").bytes(77, "x");
    CHECK(error_of(builder.str()).empty());
}

TEST_CASE("pieces that are dubious are refused") {
    const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
    check_refused([](auto& b) { b.piece(""); }, "piece 3, \"\", has 0 bytes, expected 1 to 7999");
    check_refused([](auto& b) { b.piece(std::string(8000, 'x')); }, "has 8000 bytes, expected 1 to 7999");
    check_refused([](auto& b) { b.piece(std::string(4 << 20, 'x')); }, "has 4194304 bytes");
    check_refused([](auto& b) { b.piece(std::string("a\0b", 3)); }, "piece 3, \"a\\x00b\", holds a zero byte");
    check_refused([](auto& b) { b.piece("\xC3\x28"); }, "is not well-formed UTF-8");
    check_refused([&](auto& b) { b.piece("a", nan); }, "has the score nan, expected a finite number");
    check_refused([&](auto& b) { b.piece("a", infinity); }, "has the score inf");
    check_refused([](auto& b) { b.piece("a").piece("b").piece("a"); }, "piece 5, \"a\", is there twice");
    check_refused([](auto& b) { b.piece("<s>"); }, "piece 3, \"<s>\", is there twice");
    check_refused([](auto& b) { b.piece("a", 0, static_cast<PieceType>(0)); }, "is of type 0, expected 1 to 6");
    check_refused([](auto& b) { b.piece("a", 0, static_cast<PieceType>(7)); }, "is of type 7, expected 1 to 6");
    check_refused([](auto& b) { b.piece("?", 0, PieceType::unknown); }, "is of type unknown, as is piece 0");
    check_refused([](auto& b) { b.piece("a b", 0, PieceType::user_defined); }, "is user-defined and holds a blank");
    check_refused([](auto& b) { b.pieces.bytes(1, ProtobufWriter().varint(1, 1).str()); }, "expected bytes");
    check_refused([](auto& b) { b.pieces.varint(1, 1); }, "expected bytes");
    CHECK(error_of(ModelBuilder().piece(std::string(7999, 'x')).str()).empty());
}

TEST_CASE("byte pieces must be spelled as bytes, all be there, and be there only for byte fallback") {
    for (const char* name : {"<0xZZ>", "<0x0a>", "<0x1>", "<0x100>", "0x0A", "<0X0A>", "a"})
        check_refused([&](auto& b) { b.piece(name, 0, PieceType::byte); }, "is of type byte, expected to be spelled");
    check_refused([](auto& b) { b.trainer_spec.varint(35, 1); },
                  "has no piece for the byte 0 although byte_fallback is on");
    check_refused([](auto& b) { b.byte_pieces().trainer_spec.varint(35, 0); },
                  "has a piece for the byte 0 although byte_fallback is off");
    CHECK(error_of(ModelBuilder().byte_pieces().str()).empty());
}

TEST_CASE("models of another kind are refused") {
    check_refused([](auto& b) { b.trainer_spec.varint(3, 1); }, "is a model of type 1, expected 2, byte-pair encoding");
    check_refused([](auto& b) { b.trainer_spec = {}; }, "is a model of type 1");
    check_refused([](auto& b) { b.trainer_spec.varint(24, 1); }, "treat_whitespace_as_suffix is not supported");
    check_refused([](auto& b) { b.normalizer_spec.bytes(1, "nmt_nfkc"); },
                  "the normalizer is \"nmt_nfkc\", expected identity");
    check_refused([](auto& b) { b.normalizer_spec.bytes(2, "xxxx"); }, "a character map of 4 bytes, expected none");
    check_refused([](auto& b) { b.pieces.bytes(5, ProtobufWriter().bytes(2, "x").str()); },
                  "a character map of 1 bytes");
    check_refused([](auto& b) { b.trainer_spec.bytes(44, "\xFF"); }, "unk_surface is \"\\xff\"");
}

TEST_CASE("the unknown piece and the ends of a sequence must be there") {
    check_refused([](auto& b) { b.trainer_spec.varint(40, 1); }, "unk_id is 1, but the piece of type unknown is 0");
    check_refused([](auto& b) { b.trainer_spec.varint(41, 0); }, "bos_id is 0, expected a piece of type control");
    check_refused([](auto& b) { b.trainer_spec.varint(41, ~std::uint64_t{0}); }, "bos_id is -1, expected");
    check_refused([](auto& b) { b.trainer_spec.varint(42, 3); }, "eos_id is 3, expected");
    check_refused([](auto& b) { b.trainer_spec.varint(42, std::uint64_t{1} << 40); }, "expected a number of 32 bits");
    check_refused([](auto& b) { b.pieces = ProtobufWriter().bytes(1, ProtobufWriter().bytes(1, "a").str()); },
                  "has no piece of type unknown");
    check_refused([](auto& b) { b.pieces = {}; }, "holds 0 pieces, expected 1 to 262144");
    CHECK(error_of("") == "test.model holds 0 pieces, expected 1 to 262144");
}

TEST_CASE("more pieces than any vocabulary has are refused before they are looked at") {
    ModelBuilder builder;
    for (Index i = 0; i <= SentencePieceParser::most_pieces; ++i) builder.pieces.raw(std::string("\x0A\0", 2));
    CHECK(error_of(builder.str()) == "test.model holds 262148 pieces, expected 1 to 262144");
}

TEST_CASE("files with random changes are refused or make a tokenizer that works") {
    LineGenerator random(5);
    const std::string small = read_file(text_data + "malformed/ok_cycle.model");
    int refused = 0, read = 0;
    for (int i = 0; i < 6000; ++i) ++(is_refused(mutated(small, random)) ? refused : read);
    CHECK(refused > 1000);
    CHECK(read > 200);
}

TEST_CASE("a real model with random changes is refused or makes a tokenizer that works") {
    LineGenerator random(6);
    const std::string file = read_file(tokenizer_path("v3"));
    int refused = 0;
    for (int i = 0; i < 300; ++i) refused += is_refused(mutated(file, random));
    CHECK(refused > 100);
    CHECK(refused < 300);
}

TEST_CASE("a model that is cut anywhere is refused") {
    const std::string file = read_file(text_data + "malformed/ok_cycle.model");
    int read = 0;
    for (std::size_t size = 0; size < file.size(); ++size) read += !is_refused(file.substr(0, size));
    CHECK(read == 0);
}

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/file_in_directory.hpp>
#include <mistral/base/mapped_file.hpp>
#include <mistral/base/quote.hpp>
#include <mistral/base/types.hpp>
#include <mistral/base/utf8.hpp>
#include <mistral/text/byte_pair_encoder.hpp>
#include <mistral/text/piece_decoder.hpp>
#include <mistral/text/sentencepiece_model.hpp>
#include <mistral/text/tokenizer_file.hpp>
#include <mistral/text/vocabulary.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// What the names of control pieces mean in a text.
enum class ControlText {
    plain,  ///< nothing: "</s>" is four characters, whoever wrote it
    parse,  ///< the piece they name. Only for text that no user had a hand in.
};

/// What becomes of bytes that are not UTF-8.
enum class InvalidUtf8 {
    replace,  ///< each becomes U+FFFD, as with the sentencepiece library
    refuse,   ///< Error
    bytes,    ///< each becomes its byte piece, which `Tokenizer::piece` gives back
};

struct EncodeOptions {
    bool bos = true;   ///< put the piece that begins a sequence first
    bool eos = false;  ///< put the piece that ends a sequence last
    ControlText control = ControlText::plain;
    InvalidUtf8 invalid = InvalidUtf8::replace;
};

/// The SentencePiece tokenizers of Mistral's models, version 1 to 3: byte-pair encoding without normalisation. Encodes
/// and decodes exactly as the sentencepiece library does.
///
/// Immutable: copies share one vocabulary, and all members may be called from any thread.
class Tokenizer {
  public:
    /// Larger models are refused. Those in circulation have up to five million bytes.
    static constexpr std::size_t most_bytes = std::size_t{16} << 20;

    /// Reads a SentencePiece model file, or that of a directory: tokenizer.model, or else tokenizer.model.v3, or else
    /// the only file named *.model.v1, *.model.v2 or *.model.v3. A link in a directory must lead to where
    /// `file_in_directory` says. Throws Error with what was looked for.
    [[nodiscard]] static Tokenizer load(const std::filesystem::path& file_or_directory) {
        const auto path = find_tokenizer_file(file_or_directory);
        const bool is_given = path == file_or_directory;
        auto file = MappedFile::open(is_given ? path : file_in_directory(file_or_directory, path.filename()));
        const std::string name = utf8(path);
        std::string bytes = copy(file->bytes(), name);
        file.reset();  // the model keeps its copy only
        return Tokenizer(SentencePieceModel::parse(std::move(bytes), name));
    }

    /// Parses the bytes of a SentencePiece model. `name` is what messages call it.
    [[nodiscard]] static Tokenizer parse(std::span<const std::byte> model, std::string_view name) {
        return Tokenizer(SentencePieceModel::parse(copy(model, name), name));
    }

    /// The tokens of `text`. Takes O(n log n) steps for n bytes, whatever they are, and up to 28 bytes of memory for
    /// each byte of the longest word.
    [[nodiscard]] std::vector<Token> encode(std::string_view text, const EncodeOptions& options = {}) const {
        if (options.invalid == InvalidUtf8::refuse) require_well_formed(text);
        std::vector<Token> tokens;
        if (options.bos) tokens.push_back(bos());
        if (options.control == ControlText::parse)
            encode_with_control(text, options.invalid, tokens);
        else
            encode_part(text, options.invalid, tokens);
        if (options.eos) tokens.push_back(eos());
        return tokens;
    }

    /// The text of `tokens`, without the blank that encoding put before it. Control tokens give nothing, bytes that
    /// make no character U+FFFD. Throws Error for a number that is no token.
    [[nodiscard]] std::string decode(std::span<const Token> tokens) const {
        std::string text;
        PieceDecoder decoder;
        for (const Token token : tokens) decoder.push(*vocabulary_, checked(token), text);
        decoder.finish(text);
        return text;
    }

    /// The bytes that `token` stands for: "▁the" is " the", "<0x0A>" a newline, a control token nothing. Possibly only
    /// a part of a character. Valid as long as some copy of the tokenizer.
    [[nodiscard]] std::string_view piece(Token token) const { return vocabulary_->surface(checked(token)); }

    /// The piece as the model spells it: "▁the", "<0x0A>", "[INST]". Valid as long as some copy of the tokenizer.
    [[nodiscard]] std::string_view name(Token token) const { return model().pieces[checked(token)]; }

    /// The token of the piece that the model spells so.
    [[nodiscard]] std::optional<Token> find(std::string_view name) const { return model().pieces.find(name); }

    [[nodiscard]] bool is_control(Token token) const { return model().type(checked(token)) == PieceType::control; }
    [[nodiscard]] Index vocab_size() const { return vocabulary_->size(); }
    [[nodiscard]] Token bos() const { return model().bos; }
    [[nodiscard]] Token eos() const { return model().eos; }
    [[nodiscard]] Token unknown() const { return model().unknown; }

    /// Throws Error unless `token` is in the vocabulary.
    void require_token(Token token) const {
        require(token >= 0 && token < vocab_size(), "token ", token, " is not in the vocabulary, expected 0 to ",
                vocab_size() - 1);
    }

    /// What encoding and decoding work with.
    [[nodiscard]] const Vocabulary& vocabulary() const { return *vocabulary_; }

  private:
    explicit Tokenizer(SentencePieceModel model) : vocabulary_(std::make_shared<const Vocabulary>(std::move(model))) {}

    static std::string copy(std::span<const std::byte> model, std::string_view name) {
        require(model.size() <= most_bytes, name, " has ", model.size(),
                " bytes, expected a SentencePiece model of at most ", most_bytes);
        return {reinterpret_cast<const char*>(model.data()), model.size()};
    }

    [[nodiscard]] const SentencePieceModel& model() const { return vocabulary_->model(); }

    [[nodiscard]] Token checked(Token token) const {
        require_token(token);
        return token;
    }

    /// Encodes what lies between the names of control pieces, each part as a text of its own.
    void encode_with_control(std::string_view text, InvalidUtf8 invalid, std::vector<Token>& tokens) const {
        std::size_t part = 0;
        for (std::size_t i = 0; i < text.size();) {
            const auto control = vocabulary_->control().longest_prefix_of(text.substr(i));
            if (!control) {
                ++i;
                continue;
            }
            encode_part(text.substr(part, i - part), invalid, tokens);
            tokens.push_back(control->token);
            part = i += control->size;
        }
        encode_part(text.substr(part), invalid, tokens);
    }

    void encode_part(std::string_view text, InvalidUtf8 invalid, std::vector<Token>& tokens) const {
        const std::string prepared = prepare(text, invalid);
        require(prepared.size() < BytePairEncoder::longest_text, "a text of ", text.size(),
                " bytes is too long to encode, expected less than ", BytePairEncoder::longest_text / 3);
        BytePairEncoder encoder(*vocabulary_);
        for_each_word(
            prepared, [&](std::string_view word) { encoder.encode(word, tokens); },
            [&](Token user_defined) { tokens.push_back(user_defined); });
    }

    /// The text as pieces spell it: with its blanks escaped and the first blank added.
    [[nodiscard]] std::string prepare(std::string_view text, InvalidUtf8 invalid) const {
        const Whitespace& whitespace = model().whitespace;
        const std::string_view blank = whitespace.escape_whitespaces ? piece_blank : " ";
        if (whitespace.remove_extra_whitespaces) text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
        std::string prepared;
        if (text.empty()) return prepared;
        prepared.reserve(text.size() + text.size() / 2);
        if (whitespace.add_dummy_prefix) prepared += blank;
        bool after_blank = false;
        for (std::size_t i = 0, length = 0; i < text.size(); i += length) {
            length = Utf8::step(text.substr(i));
            const std::string_view character = text.substr(i, length);
            const bool is_blank = character == " ";
            if (is_blank && !(after_blank && whitespace.remove_extra_whitespaces))
                prepared += blank;
            else if (!is_blank && invalid == InvalidUtf8::replace && Utf8::length(character) == 0)
                prepared += replacement_character;
            else if (!is_blank)
                prepared += character;
            after_blank = is_blank;
        }
        while (whitespace.remove_extra_whitespaces && prepared.ends_with(blank))
            prepared.resize(prepared.size() - blank.size());
        return prepared;
    }

    static void require_well_formed(std::string_view text) {
        for (std::size_t i = 0, length = 0; i < text.size(); i += length) {
            length = Utf8::length(text.substr(i));
            if (length == 0)
                fail("the text is not UTF-8: byte ", i, " is ", quote(text.substr(i, 1)),
                     ", which is no part of a character");
        }
    }

    /// Splits a prepared text where no merge can cross: around user-defined pieces, and before words if the vocabulary
    /// keeps them apart.
    void for_each_word(std::string_view text, const auto& on_word, const auto& on_user_defined) const {
        std::size_t word = 0;
        bool after_blank = true;
        const auto end_word = [&](std::size_t end) {
            if (end > word) on_word(text.substr(word, end - word));
            word = end;
        };
        for (std::size_t i = 0, length = 0; i < text.size(); i += length) {
            const std::string_view rest = text.substr(i);
            length = Utf8::step(rest);
            const bool is_blank = rest.starts_with(piece_blank);
            if (const auto match = vocabulary_->user_defined().longest_prefix_of(rest)) {
                end_word(i);
                on_user_defined(match->token);
                word = i + (length = match->size);
            } else if (is_blank && !after_blank && vocabulary_->words_are_apart()) {
                end_word(i);
            }
            after_blank = is_blank;
        }
        end_word(text.size());
    }

    std::shared_ptr<const Vocabulary> vocabulary_;
};

}  // namespace mistral

#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/quote.hpp>
#include <mistral/base/types.hpp>
#include <mistral/base/utf8.hpp>
#include <mistral/text/piece_table.hpp>
#include <mistral/text/protobuf.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// What a piece of a vocabulary is for. The numbers are those of the file.
enum class PieceType : std::uint8_t {
    normal = 1,        ///< text, found by merging
    unknown = 2,       ///< stands for whatever no other piece covers
    control = 3,       ///< `<s>`, `[INST]`: no text of its own, and no text becomes one
    user_defined = 4,  ///< text that is one token wherever it stands
    unused = 5,        ///< an intermediate result of merges that is taken apart again
    byte = 6,          ///< `<0x0A>`: one byte of a character that no piece covers
};

/// The blank as pieces spell it: U+2581.
inline constexpr std::string_view piece_blank = "\xE2\x96\x81";

/// How text becomes what pieces are matched with. Nothing else is done to it: Mistral's models do not normalise.
struct Whitespace {
    bool add_dummy_prefix = true;          ///< a blank goes before the text
    bool remove_extra_whitespaces = true;  ///< no blanks at either end, and one where there were several
    bool escape_whitespaces = true;        ///< a blank becomes U+2581
};

/// What a `tokenizer.model` says: SentencePiece's ModelProto (github.com/google/sentencepiece,
/// src/sentencepiece_model.proto), of which byte-pair encoding without normalisation is supported.
struct SentencePieceModel {
    std::shared_ptr<const std::string> file;  ///< holds the characters of `pieces`
    PieceTable pieces;                        ///< as the file spells them; the token is the position in the file
    std::vector<float> scores;                ///< of each piece: the higher, the earlier a merge to it
    std::vector<PieceType> types;             ///< of each piece
    std::array<Token, 256> byte_tokens{};     ///< of each byte, if byte_fallback
    Whitespace whitespace;
    std::string unknown_surface = " \xE2\x81\x87 ";  ///< the text of the unknown piece
    bool byte_fallback = false;  ///< a character that no piece covers becomes its bytes instead of the unknown piece
    Token unknown = 0;
    Token bos = 1;
    Token eos = 2;

    [[nodiscard]] PieceType type(Token token) const { return types[static_cast<std::size_t>(token)]; }
    [[nodiscard]] float score(Token token) const { return scores[static_cast<std::size_t>(token)]; }

    /// Parses the bytes of a file; `name` is for messages. Throws Error for whatever is not a valid model or is not
    /// supported, having taken no more than 16 MiB beyond the bytes.
    [[nodiscard]] static SentencePieceModel parse(std::string bytes, std::string_view name);
};

/// Reads a SentencePieceModel field by field, then checks what only the whole can tell.
class SentencePieceParser {
  public:
    /// Twice the largest vocabulary in circulation would not fit the 16 MiB that a refusal may cost.
    static constexpr Index most_pieces = Index{1} << 18;
    /// The bound of the sentencepiece library (model_interface.cc).
    static constexpr std::size_t longest_piece = 7999;

    SentencePieceParser(std::string bytes, std::string_view name)
        : name_(name), file_(std::make_shared<const std::string>(std::move(bytes))) {
        model_.file = file_;
    }

    [[nodiscard]] SentencePieceModel parse() {
        reserve(count_pieces());
        ProtobufReader reader(*file_, name_);
        while (const auto field = reader.next()) {
            const auto number = field->number;
            if (number == 1)
                parse_piece(reader, reader.message(*field));
            else if (number == 2)
                parse_trainer_spec(reader.message(*field));
            else if (number == 3)
                parse_normalizer_spec(reader.message(*field));
            else if (number == 5)
                parse_denormalizer_spec(reader.message(*field));
        }
        model_.pieces = PieceTable(std::move(texts_));
        check_whole();
        return std::move(model_);
    }

  private:
    static constexpr int unigram = 1;
    static constexpr int byte_pair_encoding = 2;

    [[nodiscard]] Index count_pieces() const {
        Index pieces = 0;
        ProtobufReader reader(*file_, name_);
        while (const auto field = reader.next()) pieces += field->number == 1 ? 1 : 0;
        require(pieces > 0 && pieces <= most_pieces, name_, " holds ", pieces, " pieces, expected 1 to ", most_pieces);
        return pieces;
    }

    void reserve(Index pieces) {
        const auto count = static_cast<std::size_t>(pieces);
        texts_.reserve(count);
        model_.scores.reserve(count);
        model_.types.reserve(count);
        model_.byte_tokens.fill(-1);
        model_.unknown = -1;
    }

    void parse_piece(const ProtobufReader& file_reader, ProtobufReader reader) {
        std::string_view text;
        float score = 0;
        std::int32_t type = static_cast<std::int32_t>(PieceType::normal);
        while (const auto field = reader.next()) {
            const auto number = field->number;
            if (number == 1)
                text = reader.bytes(*field);
            else if (number == 2)
                score = reader.float32(*field);
            else if (number == 3)
                type = reader.int32(*field);
        }
        const auto check = [&](bool condition, const auto&... parts) {
            if (!condition) file_reader.refuse("piece ", model_.scores.size(), ", ", quote(text), ", ", parts...);
        };
        check(!text.empty() && text.size() <= longest_piece, "has ", text.size(), " bytes, expected 1 to ",
              longest_piece);
        check(text.find('\0') == text.npos, "holds a zero byte");
        check(Utf8::is_well_formed(text), "is not well-formed UTF-8");
        check(std::isfinite(score), "has the score ", score, ", expected a finite number");
        check(type >= 1 && type <= 6, "is of type ", type, ", expected 1 to 6");
        texts_.push_back(text);
        model_.scores.push_back(score);
        model_.types.push_back(static_cast<PieceType>(type));
        note_special(static_cast<PieceType>(type), text, check);
    }

    /// Remembers the unknown piece and the byte pieces, of each of which there is one.
    void note_special(PieceType type, std::string_view text, const auto& check) {
        const auto token = static_cast<Token>(texts_.size() - 1);
        if (type == PieceType::unknown) {
            check(model_.unknown < 0, "is of type unknown, as is piece ", model_.unknown);
            model_.unknown = token;
        } else if (type == PieceType::byte) {
            const int value = byte_value(text);
            check(value >= 0, "is of type byte, expected to be spelled <0x00> to <0xFF>");
            model_.byte_tokens[static_cast<std::size_t>(value)] = token;
        } else if (type == PieceType::user_defined) {
            check(text.find(' ') == text.npos, "is user-defined and holds a blank, expected U+2581");
        }
    }

    /// The byte that `<0x2F>` names, with two upper-case digits; -1 for another text.
    static int byte_value(std::string_view text) {
        constexpr std::string_view digits = "0123456789ABCDEF";
        if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
        const std::size_t high = digits.find(text[3]), low = digits.find(text[4]);
        return high == digits.npos || low == digits.npos ? -1 : static_cast<int>(16 * high + low);
    }

    void parse_trainer_spec(ProtobufReader reader) {
        while (const auto field = reader.next()) {
            const auto number = field->number;
            if (number == 3)
                model_type_ = reader.int32(*field);
            else if (number == 24)
                reader.check(!reader.boolean(*field), "treat_whitespace_as_suffix is not supported");
            else if (number == 35)
                model_.byte_fallback = reader.boolean(*field);
            else if (number == 40)
                unknown_id_ = reader.int32(*field);
            else if (number == 41)
                model_.bos = reader.int32(*field);
            else if (number == 42)
                model_.eos = reader.int32(*field);
            else if (number == 44)
                model_.unknown_surface = unknown_surface(reader, *field);
        }
    }

    static std::string unknown_surface(const ProtobufReader& reader, const ProtobufField& field) {
        const std::string_view text = reader.bytes(field);
        reader.check(text.size() <= longest_piece && Utf8::is_well_formed(text), "unk_surface is ", quote(text),
                     ", expected well-formed UTF-8 of at most ", longest_piece, " bytes");
        return std::string(text);
    }

    void parse_normalizer_spec(ProtobufReader reader) {
        has_normalizer_spec_ = true;
        while (const auto field = reader.next()) {
            const auto number = field->number;
            if (number == 1)
                check_normalizer_name(reader, reader.bytes(*field));
            else if (number == 2)
                check_no_charsmap(reader, *field);
            else if (number == 3)
                model_.whitespace.add_dummy_prefix = reader.boolean(*field);
            else if (number == 4)
                model_.whitespace.remove_extra_whitespaces = reader.boolean(*field);
            else if (number == 5)
                model_.whitespace.escape_whitespaces = reader.boolean(*field);
        }
    }

    void parse_denormalizer_spec(ProtobufReader reader) {
        while (const auto field = reader.next())
            if (field->number == 2) check_no_charsmap(reader, *field);
    }

    static void check_normalizer_name(const ProtobufReader& reader, std::string_view normalizer) {
        reader.check(normalizer.empty() || normalizer == "identity", "the normalizer is ", quote(normalizer),
                     ", expected identity: no other is supported");
    }
    static void check_no_charsmap(const ProtobufReader& reader, const ProtobufField& field) {
        reader.check(reader.bytes(field).empty(), "a character map of ", field.bytes.size(),
                     " bytes, expected none: only the identity normalizer is supported");
    }

    void check_whole() const {
        for (Token token = 0; token < model_.pieces.size(); ++token)
            require(model_.pieces.find(model_.pieces[token]) == token, name_, ": piece ", token, ", ",
                    quote(model_.pieces[token]), ", is there twice");
        require(model_type_ == byte_pair_encoding, name_, " is a model of type ", model_type_,
                ", expected 2, byte-pair encoding");
        require(has_normalizer_spec_, name_, " has no normalizer_spec: it is not complete");
        require(model_.unknown >= 0, name_, " has no piece of type unknown");
        require(unknown_id_ == model_.unknown, name_, ": unk_id is ", unknown_id_,
                ", but the piece of type unknown is ", model_.unknown);
        check_control(model_.bos, "bos_id");
        check_control(model_.eos, "eos_id");
        for (std::size_t value = 0; value < 256; ++value) {
            const bool is_there = model_.byte_tokens[value] >= 0;
            require(is_there == model_.byte_fallback, name_, is_there ? " has a" : " has no", " piece for the byte ",
                    value, model_.byte_fallback ? " although byte_fallback is on" : " although byte_fallback is off");
        }
    }

    void check_control(Token token, const char* what) const {
        require(token >= 0 && token < model_.pieces.size() && model_.type(token) == PieceType::control, name_, ": ",
                what, " is ", token, ", expected a piece of type control");
    }

    std::string_view name_;
    std::shared_ptr<const std::string> file_;
    SentencePieceModel model_;
    std::vector<std::string_view> texts_;  // of the pieces
    std::int32_t model_type_ = unigram;    // what the file's silence means
    Token unknown_id_ = 0;
    bool has_normalizer_spec_ = false;
};

inline SentencePieceModel SentencePieceModel::parse(std::string bytes, std::string_view name) {
    return SentencePieceParser(std::move(bytes), name).parse();
}

}  // namespace mistral

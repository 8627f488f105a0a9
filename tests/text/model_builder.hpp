#pragma once

#include <mistral/text/sentencepiece_model.hpp>

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

/// Writes protobuf messages, well-formed or not.
class ProtobufWriter {
  public:
    ProtobufWriter& varint(unsigned field, std::uint64_t value) {
        key(field, 0);
        number(value);
        return *this;
    }
    ProtobufWriter& float32(unsigned field, float value) {
        key(field, 5);
        for (std::uint32_t bits = std::bit_cast<std::uint32_t>(value), i = 0; i < 4; ++i, bits >>= 8)
            bytes_ += static_cast<char>(bits & 0xFF);
        return *this;
    }
    ProtobufWriter& bytes(unsigned field, std::string_view value) {
        key(field, 2);
        number(value.size());
        bytes_ += value;
        return *this;
    }
    ProtobufWriter& key(unsigned field, unsigned wire) {
        number(std::uint64_t{field} << 3 | wire);
        return *this;
    }
    ProtobufWriter& number(std::uint64_t value) {
        for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
        bytes_ += static_cast<char>(value);
        return *this;
    }
    ProtobufWriter& raw(std::string_view value) {
        bytes_ += value;
        return *this;
    }
    [[nodiscard]] const std::string& str() const { return bytes_; }

  private:
    std::string bytes_;
};

/// A SentencePiece model in the making: `<unk>`, `<s>`, `</s>`, and what is added. What a test spoils is a member.
struct ModelBuilder {
    ProtobufWriter pieces;
    ProtobufWriter trainer_spec;
    ProtobufWriter normalizer_spec;

    ModelBuilder() {
        piece("<unk>", 0, mistral::PieceType::unknown);
        piece("<s>", 0, mistral::PieceType::control);
        piece("</s>", 0, mistral::PieceType::control);
        trainer_spec.varint(3, 2);  // byte-pair encoding
        normalizer_spec.bytes(1, "identity").varint(4, 0);
    }

    ModelBuilder& piece(std::string_view text, float score = 0, mistral::PieceType type = mistral::PieceType::normal) {
        pieces.bytes(1, ProtobufWriter().bytes(1, text).float32(2, score).varint(3, static_cast<unsigned>(type)).str());
        return *this;
    }

    ModelBuilder& byte_pieces() {
        constexpr std::string_view digits = "0123456789ABCDEF";
        for (unsigned value = 0; value < 256; ++value)
            piece(std::string("<0x") + digits[value / 16] + digits[value % 16] + ">", 0, mistral::PieceType::byte);
        trainer_spec.varint(35, 1);
        return *this;
    }

    [[nodiscard]] std::string str() const {
        return ProtobufWriter(pieces).bytes(2, trainer_spec.str()).bytes(3, normalizer_spec.str()).str();
    }
    [[nodiscard]] mistral::SentencePieceModel parse() const {
        return mistral::SentencePieceModel::parse(str(), "test.model");
    }
};

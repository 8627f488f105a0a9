#pragma once

#include <mistral/base/error.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

namespace mistral {

/// How a field of a protobuf message is written.
enum class WireType : unsigned { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

/// One field of a protobuf message. A field without a schema is a number and a value; which one, `wire` says.
struct ProtobufField {
    std::uint32_t number = 0;
    WireType wire = WireType::varint;
    std::uint64_t value = 0;  ///< of varint, fixed64 and fixed32
    std::string_view bytes;   ///< of bytes: a string, or a message of its own
};

/// Reads the fields of one protobuf message in order (protobuf.dev/programming-guides/encoding). It neither copies nor
/// recurses. Groups, field number 0, varints of more than ten bytes and lengths beyond the end throw Error with the
/// name of the file and the offset.
class ProtobufReader {
  public:
    /// Reads `message`, which with `name` must outlive the reader. `file_start` is where offsets count from.
    ProtobufReader(std::string_view message, std::string_view name, const char* file_start)
        : rest_(message), name_(name), file_start_(file_start) {}
    ProtobufReader(std::string_view file, std::string_view name) : ProtobufReader(file, name, file.data()) {}

    /// The next field, or nothing at the end of the message.
    [[nodiscard]] std::optional<ProtobufField> next() {
        if (rest_.empty()) return std::nullopt;
        field_start_ = rest_.data();
        const std::uint64_t key = varint();
        check(key >> 3 != 0 && key <= std::numeric_limits<std::uint32_t>::max(), "field number ", key >> 3,
              ", expected 1 to 536870911");
        ProtobufField field{static_cast<std::uint32_t>(key >> 3), static_cast<WireType>(key & 7), 0, {}};
        switch (field.wire) {
            case WireType::varint:
                field.value = varint();
                return field;
            case WireType::fixed64:
                field.value = fixed(8);
                return field;
            case WireType::fixed32:
                field.value = fixed(4);
                return field;
            case WireType::bytes:
                field.bytes = take(varint());
                return field;
        }
        refuse("wire type ", key & 7, " in field ", field.number, ", expected 0, 1, 2 or 5");
    }

    /// A reader of the message that `field` holds.
    [[nodiscard]] ProtobufReader message(const ProtobufField& field) const {
        return {bytes(field), name_, file_start_};
    }

    [[nodiscard]] std::string_view bytes(const ProtobufField& field) const {
        expect(field, WireType::bytes, "bytes");
        return field.bytes;
    }
    [[nodiscard]] bool boolean(const ProtobufField& field) const {
        expect(field, WireType::varint, "a varint");
        return field.value != 0;
    }
    /// A negative number is written as the varint of its 64 bits.
    [[nodiscard]] std::int32_t int32(const ProtobufField& field) const {
        expect(field, WireType::varint, "a varint");
        const auto number = static_cast<std::int64_t>(field.value);
        check(number == static_cast<std::int32_t>(number), "field ", field.number, " is ", number,
              ", expected a number of 32 bits");
        return static_cast<std::int32_t>(number);
    }
    [[nodiscard]] float float32(const ProtobufField& field) const {
        expect(field, WireType::fixed32, "a float");
        return std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
    }

    /// Throws Error with the file's name and the offset of the field that was read last.
    template <class... Parts>
    [[noreturn]] void refuse(const Parts&... parts) const {
        fail(name_, ", byte ", field_start_ - file_start_, ": ", parts...);
    }
    template <class... Parts>
    void check(bool condition, const Parts&... parts) const {
        if (!condition) [[unlikely]]
            refuse(parts...);
    }

  private:
    void expect(const ProtobufField& field, WireType wire, const char* what) const {
        check(field.wire == wire, "field ", field.number, " has wire type ", static_cast<unsigned>(field.wire),
              ", expected ", what);
    }

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            check(!rest_.empty(), "ends within a number");
            const auto byte = static_cast<unsigned char>(rest_.front());
            rest_.remove_prefix(1);
            check(shift < 63 || byte <= 1, "a number of more than 64 bits");
            value |= std::uint64_t{byte & 0x7Fu} << shift;
            if (byte < 0x80) return value;
        }
        refuse("a number of more than 10 bytes");
    }

    std::uint64_t fixed(std::size_t size) {
        std::uint64_t value = 0;
        unsigned shift = 0;
        for (const char byte : take(size)) {
            value |= std::uint64_t{static_cast<unsigned char>(byte)} << shift;
            shift += 8;
        }
        return value;
    }

    std::string_view take(std::uint64_t size) {
        check(size <= rest_.size(), "a length of ", size, " bytes, but only ", rest_.size(), " are left");
        const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(size));
        rest_.remove_prefix(taken.size());
        return taken;
    }

    std::string_view rest_;
    std::string_view name_;
    const char* file_start_;
    const char* field_start_ = file_start_;
};

}  // namespace mistral

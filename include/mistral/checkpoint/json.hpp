#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/json_reader.hpp>
#include <mistral/base/quote.hpp>
#include <mistral/base/types.hpp>

#include <charconv>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace mistral {

/// A JSON value as its file spells it: numbers become numbers where they are asked for.
struct JsonValue {
    enum class Kind { null, boolean, number, string, array, object };

    Kind kind = Kind::null;
    std::string text{};                 ///< of a string; null, true, false and numbers as they are written
    std::vector<JsonValue> children{};  ///< of an object or array, in the order of the file
    std::map<std::string, std::size_t, std::less<>> positions{};  ///< of an object's keys among the children

    /// A number that is an Index, written without point and exponent.
    [[nodiscard]] std::optional<Index> integer() const { return parse<Index>(); }

    /// A number in the range of a double.
    [[nodiscard]] std::optional<double> number() const { return parse<double>(); }

  private:
    template <class Number>
    [[nodiscard]] std::optional<Number> parse() const {
        Number number = 0;
        const char* const end = text.data() + text.size();
        const auto [stop, error] = std::from_chars(text.data(), end, number);
        if (kind != Kind::number || error != std::errc() || stop != end) return std::nullopt;
        return number;
    }
};

/// Builds the value that a JSON text holds, more strictly than JSON itself: a key that an object holds twice (also when
/// it is spelt with escapes once), numbers beyond a double, and texts too deep or too large are refused.
class JsonBuilder {
  public:
    static constexpr std::size_t max_bytes =
        std::size_t{1} << 20;  ///< a header of a 7B model has 32 KB; messages cost nine times as much
    static constexpr std::size_t max_depth = 16;
    static constexpr Index max_values =
        Index{1} << 15;  ///< bounds memory; a header has 8 per tensor, and a model some hundred tensors

    /// Throws Error where `text` is not what it should be. `name` says in messages which file it is.
    [[nodiscard]] static JsonValue build(std::string_view text, const std::string& name) {
        require(text.size() <= max_bytes, name, " has ", text.size(), " bytes of JSON, expected at most ", max_bytes);
        JsonBuilder builder(name);
        JsonReader reader(text, name);
        for (JsonToken token = reader.next(); token.kind != JsonToken::Kind::end; token = reader.next())
            builder.take(std::move(token));
        return std::move(builder.root_);
    }

  private:
    using Kind = JsonValue::Kind;

    explicit JsonBuilder(const std::string& name) : name_(name) {}

    void take(JsonToken token) {
        switch (token.kind) {
            case JsonToken::Kind::null:
                add(Kind::null, std::move(token.text));
                break;
            case JsonToken::Kind::boolean:
                add(Kind::boolean, std::move(token.text));
                break;
            case JsonToken::Kind::number:
                add_number(std::move(token.text));
                break;
            case JsonToken::Kind::string:
                add(Kind::string, std::move(token.text));
                break;
            case JsonToken::Kind::key:
                add_key(std::move(token.text));
                break;
            case JsonToken::Kind::open_object:
                open(Kind::object);
                break;
            case JsonToken::Kind::open_array:
                open(Kind::array);
                break;
            case JsonToken::Kind::close_object:
            case JsonToken::Kind::close_array:
                open_.pop_back();
                break;
            case JsonToken::Kind::end:
                break;
        }
    }

    JsonValue& add(Kind kind, std::string text) {
        require(++values_ <= max_values, name_, " holds more than ", max_values, " values, which no checkpoint does");
        JsonValue value{kind, std::move(text)};
        if (open_.empty()) return root_ = std::move(value);
        return open_.back()->children.emplace_back(std::move(value));
    }

    void add_number(std::string digits) {
        const JsonValue& value = add(Kind::number, std::move(digits));
        require(value.number().has_value(), name_, ": the number ", quote(value.text),
                " is outside the range of a double");
    }

    void open(Kind kind) {
        require(open_.size() < max_depth, name_, " is nested more than ", max_depth, " levels deep");
        open_.push_back(&add(kind, {}));
    }

    void add_key(std::string key) {
        JsonValue& object = *open_.back();
        const auto [entry, is_new] = object.positions.emplace(std::move(key), object.children.size());
        require(is_new, name_, ": the key ", quote(entry->first), " stands twice in one object");
    }

    const std::string& name_;
    JsonValue root_;
    std::vector<JsonValue*> open_;  // objects and arrays that are not closed yet; none of them moves before it is
    Index values_ = 0;
};

/// A value of a JSON file with the place where it stands. Reading it as something that it is not throws an Error that
/// names the file, the key, what was found and what was expected. Copies are cheap and share the file's contents.
class Json {
  public:
    /// Throws Error where `text` is no JSON (RFC 8259) in UTF-8 (a byte order mark is skipped), holds a lone surrogate,
    /// a key twice, a number beyond a double, or passes JsonBuilder's limits. `name` says in messages which file it is.
    [[nodiscard]] static Json parse(std::string_view text, std::string name) {
        auto root = std::make_shared<const JsonValue>(JsonBuilder::build(text, name));
        return Json(root.get(), root, std::move(name), ": ");
    }

    [[nodiscard]] bool is_null() const { return is(Kind::null); }
    [[nodiscard]] bool is_object() const { return is(Kind::object); }
    [[nodiscard]] bool is_array() const { return is(Kind::array); }
    [[nodiscard]] bool is_false() const { return is(Kind::boolean) && value_->text == "false"; }

    /// The entry `key` of an object, if there is one. It may be null.
    [[nodiscard]] std::optional<Json> find(std::string_view key) const {
        expect(is_object(), "an object");
        const auto entry = value_->positions.find(key);
        if (entry == value_->positions.end()) return std::nullopt;
        return child(value_->children[entry->second], concat(next_, escape(key)));
    }

    /// The same, where null counts as absent.
    [[nodiscard]] std::optional<Json> find_given(std::string_view key) const {
        auto entry = find(key);
        if (entry && entry->is_null()) entry.reset();
        return entry;
    }

    /// The entry `key` of an object. Throws Error where there is none.
    [[nodiscard]] Json at(std::string_view key) const {
        auto entry = find(key);
        require(entry.has_value(), where_, next_, escape(key), " is missing");
        return *std::move(entry);
    }

    /// Calls visit(key, value) for the entries of an object, in the order of their keys' bytes: one after the other, as
    /// each value holds the words for its place, which for all at once could take more memory than the file.
    template <class Visit>
    void for_each_member(const Visit& visit) const {
        expect(is_object(), "an object");
        for (const auto& [key, position] : value_->positions)
            visit(key, child(value_->children[position], concat(next_, escape(key))));
    }

    /// How many entries an object has.
    [[nodiscard]] std::size_t member_count() const {
        expect(is_object(), "an object");
        return value_->children.size();
    }

    /// The elements of a list that has at most `most`.
    [[nodiscard]] std::vector<Json> elements(std::size_t most) const {
        expect(is_array() && value_->children.size() <= most, concat("a list of at most ", most));
        std::vector<Json> all;
        for (const JsonValue& element : value_->children) all.push_back(child(element, concat("[", all.size(), "]")));
        return all;
    }

    /// A whole number from `least` to `most`, written without point and exponent.
    [[nodiscard]] Index integer(Index least, Index most) const {
        const std::optional<Index> integer = value_->integer();
        if (!integer || *integer < least || *integer > most) refuse(concat("an integer from ", least, " to ", most));
        return *integer;
    }

    /// A number between `low` and `high`, both excluded.
    [[nodiscard]] double number(double low, double high) const {
        const std::optional<double> number = value_->number();
        if (!number || *number <= low || *number >= high) refuse(concat("a number between ", low, " and ", high));
        return *number;
    }

    [[nodiscard]] bool boolean() const {
        expect(is(Kind::boolean), "true or false");
        return value_->text == "true";
    }

    [[nodiscard]] const std::string& text() const {
        expect(is(Kind::string), "a text");
        return value_->text;
    }

    /// Throws Error, saying where the value stands, what it is and what was expected, unless `holds`.
    void expect(bool holds, std::string_view expected) const {
        if (!holds) refuse(expected);
    }

    /// The file and the keys that lead to the value, for messages.
    [[nodiscard]] const std::string& where() const { return where_; }

  private:
    using Kind = JsonValue::Kind;

    Json(const JsonValue* value, std::shared_ptr<const JsonValue> root, std::string where, const char* next)
        : value_(value), root_(std::move(root)), where_(std::move(where)), next_(next) {}

    [[nodiscard]] bool is(Kind kind) const { return value_->kind == kind; }

    [[nodiscard]] Json child(const JsonValue& value, const std::string& step) const {
        return Json(&value, root_, where_ + step, ".");
    }

    [[noreturn]] void refuse(std::string_view expected) const {
        fail(where_, " is ", found(), ", expected ", expected);
    }

    [[nodiscard]] std::string found() const {
        if (is_object()) return "an object";
        if (is_array()) return concat("a list of ", value_->children.size());
        return is(Kind::string) ? quote(value_->text) : escape(value_->text);
    }

    const JsonValue* value_;
    std::shared_ptr<const JsonValue> root_;
    std::string where_;
    const char* next_;  // what joins a key to `where_`
};

}  // namespace mistral

#pragma once

#include <mistral/base/c_locale.hpp>
#include <mistral/base/error.hpp>
#include <mistral/base/quote.hpp>
#include <mistral/base/types.hpp>

#include <nlohmann/json.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace mistral {

/// Receives a JSON text from nlohmann's parser and builds its value, more strictly than nlohmann's own builder: a key
/// that an object holds twice (also when it is spelt with escapes once) and texts too deep or too large are refused.
class JsonBuilder {
  public:
    using Value = nlohmann::json;

    static constexpr std::size_t max_bytes =
        std::size_t{1} << 20;  ///< a header of a 7B model has 32 KB; messages cost nine times as much
    static constexpr std::size_t max_depth = 16;
    static constexpr Index max_values =
        Index{1} << 15;  ///< bounds memory; a header has 8 per tensor, and a model some hundred tensors

    /// `name` says in messages which file it is.
    explicit JsonBuilder(std::string name) : name_(std::move(name)) {}

    [[nodiscard]] Value take() { return std::move(root_); }

    // What follows is nlohmann's SAX interface.
    bool null() { return add(Value()); }
    bool boolean(bool value) { return add(Value(value)); }
    bool number_integer(std::int64_t value) { return add(Value(value)); }
    bool number_unsigned(std::uint64_t value) { return add(Value(value)); }
    bool number_float(double, const std::string& digits) { return add(Value(parse(digits))); }
    bool string(std::string& value) { return add(Value(std::move(value))); }
    bool binary(const std::vector<std::uint8_t>&) { return false; }  // never comes from a text
    bool start_object(std::size_t) { return open(Value::object()); }
    bool end_object() { return close(); }
    bool start_array(std::size_t) { return open(Value::array()); }
    bool end_array() { return close(); }

    bool key(const std::string& key) {
        const auto [entry, fresh] = open_.back()->get_ref<Value::object_t&>().emplace(key, Value());
        require(fresh, name_, ": the key ", quote(key), " stands twice in one object");
        slot_ = &entry->second;
        return true;
    }

    bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
        const std::string_view message = error.what();
        const auto start = message.find("] ");  // of "[json.exception.parse_error.101] parse error at line …"
        fail(name_, " is not valid JSON, at byte ", position, ": ",
             escape(start == std::string_view::npos ? message : message.substr(start + 2), 160));
    }

  private:
    Value* place(Value value) {
        require(++values_ <= max_values, name_, " holds more than ", max_values, " values, which no checkpoint does");
        if (open_.empty()) return &(root_ = std::move(value));
        if (!open_.back()->is_array()) return &(*slot_ = std::move(value));
        return &open_.back()->get_ref<Value::array_t&>().emplace_back(std::move(value));
    }

    bool add(Value value) {
        place(std::move(value));
        return true;
    }

    bool open(Value container) {
        require(open_.size() < max_depth, name_, " is nested more than ", max_depth, " levels deep");
        open_.push_back(place(std::move(container)));
        return true;
    }

    bool close() {
        open_.pop_back();
        return true;
    }

    /// The number itself: nlohmann's own reading does not tell what is too small for a double.
    double parse(const std::string& digits) const {
        double value = 0;
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
        require(error == std::errc() && end == digits.data() + digits.size(), name_, ": the number ", quote(digits),
                " is outside the range of a double");
        return value;
    }

    std::string name_;
    Value root_;
    std::vector<Value*> open_;  // objects and arrays that are not closed yet; none of them moves before it is
    Value* slot_ = nullptr;     // of the key read last
    Index values_ = 0;
};

/// A value of a JSON file with the place where it stands. Reading it as something that it is not throws an Error that
/// names the file, the key, what was found and what was expected. Copies are cheap and share the file's contents.
class Json {
  public:
    /// Throws Error where `text` is no JSON (RFC 8259) in UTF-8 (a byte order mark is skipped), holds a lone surrogate,
    /// a key twice, a number beyond a double, or passes JsonBuilder's limits. `name` says in messages which file it is.
    [[nodiscard]] static Json parse(std::string_view text, std::string name) {
        require(text.size() <= JsonBuilder::max_bytes, name, " has ", text.size(), " bytes of JSON, expected at most ",
                JsonBuilder::max_bytes);
        require(text.find('\0') == std::string_view::npos, name, " is not valid JSON: it holds a zero byte");
        JsonBuilder builder(name);
        const CLocale numbers;
        nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
        auto root = std::make_shared<const nlohmann::json>(builder.take());
        return Json(root.get(), root, std::move(name), ": ");
    }

    [[nodiscard]] bool is_null() const { return value_->is_null(); }
    [[nodiscard]] bool is_object() const { return value_->is_object(); }
    [[nodiscard]] bool is_array() const { return value_->is_array(); }
    [[nodiscard]] bool is_false() const { return value_->is_boolean() && !value_->get<bool>(); }

    /// The entry `key` of an object, if there is one. It may be null.
    [[nodiscard]] std::optional<Json> find(std::string_view key) const {
        expect(value_->is_object(), "an object");
        const auto& object = value_->get_ref<const nlohmann::json::object_t&>();
        const auto entry = object.find(std::string(key));
        if (entry == object.end()) return std::nullopt;
        return child(entry->second, concat(next_, escape(key)));
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
        expect(value_->is_object(), "an object");
        for (const auto& [key, entry] : value_->get_ref<const nlohmann::json::object_t&>())
            visit(key, child(entry, concat(next_, escape(key))));
    }

    /// How many entries an object has.
    [[nodiscard]] std::size_t member_count() const {
        expect(value_->is_object(), "an object");
        return value_->size();
    }

    /// The elements of a list that has at most `most`.
    [[nodiscard]] std::vector<Json> elements(std::size_t most) const {
        expect(value_->is_array() && value_->size() <= most, concat("a list of at most ", most));
        std::vector<Json> all;
        for (const auto& element : value_->get_ref<const nlohmann::json::array_t&>())
            all.push_back(child(element, concat("[", all.size(), "]")));
        return all;
    }

    /// A whole number from `least` to `most`, written without point and exponent.
    [[nodiscard]] Index integer(Index least, Index most) const {
        const bool fits = value_->is_number_unsigned()
                              ? value_->get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<Index>::max()}
                              : value_->is_number_integer();
        const bool within = fits && value_->get<Index>() >= least && value_->get<Index>() <= most;
        expect(within, concat("an integer from ", least, " to ", most));
        return value_->get<Index>();
    }

    /// A number between `low` and `high`, both excluded.
    [[nodiscard]] double number(double low, double high) const {
        const bool within = value_->is_number() && low < value_->get<double>() && value_->get<double>() < high;
        expect(within, concat("a number between ", low, " and ", high));
        return value_->get<double>();
    }

    [[nodiscard]] bool boolean() const {
        expect(value_->is_boolean(), "true or false");
        return value_->get<bool>();
    }

    [[nodiscard]] const std::string& text() const {
        expect(value_->is_string(), "a text");
        return value_->get_ref<const std::string&>();
    }

    /// Throws Error, saying where the value stands, what it is and what was expected, unless `holds`.
    void expect(bool holds, std::string_view expected) const {
        if (!holds) fail(where_, " is ", found(), ", expected ", expected);
    }

    /// The file and the keys that lead to the value, for messages.
    [[nodiscard]] const std::string& where() const { return where_; }

  private:
    Json(const nlohmann::json* value, std::shared_ptr<const nlohmann::json> root, std::string where, const char* next)
        : value_(value), root_(std::move(root)), where_(std::move(where)), next_(next) {}

    [[nodiscard]] Json child(const nlohmann::json& value, const std::string& step) const {
        return Json(&value, root_, where_ + step, ".");
    }

    [[nodiscard]] std::string found() const {
        if (value_->is_object()) return "an object";
        if (value_->is_array()) return concat("a list of ", value_->size());
        if (value_->is_string()) return quote(value_->get_ref<const std::string&>());
        return value_->dump();  // null, true, false and numbers
    }

    const nlohmann::json* value_;
    std::shared_ptr<const nlohmann::json> root_;
    std::string where_;
    const char* next_;  // what joins a key to `where_`
};

}  // namespace mistral

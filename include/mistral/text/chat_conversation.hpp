#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/quote.hpp>
#include <mistral/base/types.hpp>
#include <mistral/text/chat_message.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// A conversation as templates want it: valid, without system messages, and with one turn where several messages of
/// one role followed each other. The rules are mistral-common's (protocol/instruct/validator.py in serving mode, and
/// normalize.py), except that it begins with a user's message and not with an assistant's.
class ChatConversation {
  public:
    /// Throws Error with the number of the message that breaks a rule.
    ChatConversation(ChatTemplate chat_template, std::span<const Message> messages) : template_(chat_template) {
        require(!messages.empty(), "the conversation is empty, expected at least one message");
        for (std::size_t i = 0; i < messages.size(); ++i) {
            number_ = i;
            is_last_ = i + 1 == messages.size();
            add(messages[i]);
        }
        check(unanswered_calls_ == 0, "ends the conversation with ", unanswered_calls_, " tool calls unanswered");
        if (turns_.empty()) turns_.emplace_back();
    }

    /// The system messages, joined by an empty line.
    [[nodiscard]] const std::string& system_prompt() const { return system_prompt_; }
    [[nodiscard]] const std::vector<Message>& turns() const { return turns_; }
    /// Among the turns.
    [[nodiscard]] std::size_t last_user_turn() const { return last_user_turn_; }

    /// Whether `name` can be that of a tool.
    [[nodiscard]] static bool is_tool_name(std::string_view name) {
        const auto fits = [](char c) { return is_alphanumeric(c) || c == '_' || c == '-'; };
        return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), fits);
    }

    /// Appends `text` after an empty line, if there is anything on both sides.
    static void append_paragraph(std::string& to, std::string_view text) {
        if (!to.empty() && !text.empty()) to += "\n\n";
        to += text;
    }

  private:
    void add(const Message& message) {
        check_order(message);
        check_content(message);
        if (message.role == Role::system)
            append_paragraph(system_prompt_, message.content);
        else if (message.role == previous_ && message.role != Role::tool)
            merge_with_last_turn(message);
        else
            add_turn(message);
        previous_ = message.role;
    }

    void add_turn(const Message& message) {
        if (message.role == Role::user) last_user_turn_ = turns_.size();
        turns_.push_back(message);
    }

    void merge_with_last_turn(const Message& message) {
        Message& turn = turns_.back();
        append_paragraph(turn.content, message.content);
        turn.tool_calls.insert(turn.tool_calls.end(), message.tool_calls.begin(), message.tool_calls.end());
        turn.prefix = message.prefix;
        check(turn.content.empty() || turn.tool_calls.empty(),
              "follows another message of the assistant, and together they have both content and tool calls");
    }

    void check_order(const Message& message) {
        const Role role = message.role;
        check(role != Role::assistant || !turns_.empty(), "is the assistant's, expected a user's before it");
        check(role != Role::tool || previous_ == Role::assistant || previous_ == Role::tool,
              "is a tool's, expected an assistant's or a tool's before it");
        check(role != Role::system || previous_ == Role::system || previous_ == Role::user,
              "is the system's, expected it at the start or after a user's");
        check(role != Role::assistant || unanswered_calls_ == 0, "is the assistant's, but ", unanswered_calls_,
              " tool calls before it are unanswered");
        check(role != Role::tool || unanswered_calls_ > 0, "is a tool's, but no tool call before it is unanswered");
        check(message.prefix ? role == Role::assistant && is_last_ : role != Role::assistant || !is_last_,
              message.prefix ? "is marked as a prefix, expected only of an assistant's message at the end"
                             : "is the assistant's and the last, expected it to be marked as a prefix");
        unanswered_calls_ += static_cast<Index>(message.tool_calls.size()) - (role == Role::tool ? 1 : 0);
    }

    void check_content(const Message& message) const {
        const bool has_calls = !message.tool_calls.empty();
        check(!has_calls || message.role == Role::assistant, "has tool calls, expected none but in an assistant's");
        check(message.role != Role::assistant || message.content.empty() == has_calls,
              "is the assistant's, expected it to have either content or tool calls");
        check(template_ != ChatTemplate::v1 || (message.role != Role::tool && !has_calls),
              "is about tools, which the template v1 has not");
        for (const ToolCall& call : message.tool_calls) {
            check(is_tool_name(call.name), "calls the tool ", quote(call.name), tool_name_rule);
            check_call_id(call.id);
        }
        if (message.role != Role::tool) return;
        check_call_id(message.tool_call_id);
        check(message.tool_name.empty() || is_tool_name(message.tool_name), "is of the tool ", quote(message.tool_name),
              tool_name_rule);
    }

    void check_call_id(std::string_view id) const {
        const bool fits = id.size() == 9 && std::all_of(id.begin(), id.end(), is_alphanumeric);
        check(template_ != ChatTemplate::v3 || fits, "has the tool call id ", quote(id),
              ", expected nine letters or digits");
    }

    /// Not std::isalnum, which asks the locale.
    static bool is_alphanumeric(char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    }

    template <class... Parts>
    void check(bool condition, const Parts&... parts) const {
        require(condition, "message ", number_, " of the conversation ", parts...);
    }

    static constexpr std::string_view tool_name_rule = ", expected 1 to 64 letters, digits, '_' or '-'";

    ChatTemplate template_;
    std::string system_prompt_;
    std::vector<Message> turns_;
    std::size_t last_user_turn_ = 0;

    // Of the message being read.
    std::size_t number_ = 0;
    bool is_last_ = false;
    Role previous_ = Role::system;
    Index unanswered_calls_ = 0;
};

}  // namespace mistral

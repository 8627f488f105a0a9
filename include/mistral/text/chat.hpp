#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/quote.hpp>
#include <mistral/base/types.hpp>
#include <mistral/text/chat_conversation.hpp>
#include <mistral/text/chat_message.hpp>
#include <mistral/text/python_json.hpp>
#include <mistral/text/tokenizer.hpp>

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// Writes conversations in the tokens that a model was trained on. Made for one conversation.
class ChatEncoder {
  public:
    ChatEncoder(const Tokenizer& tokenizer, ChatTemplate chat_template)
        : tokenizer_(tokenizer), template_(chat_template), tokens_{tokenizer.bos()} {}

    /// The tokens of `conversation`, and of `tools` (a JSON array, or nothing) before its last question.
    [[nodiscard]] std::vector<Token> encode(const ChatConversation& conversation, std::string_view tools) {
        const auto& turns = conversation.turns();
        for (std::size_t i = 0; i < turns.size(); ++i) {
            const bool is_over = i < conversation.last_user_turn();
            switch (turns[i].role) {
                case Role::user:
                    add_user(conversation, i, tools);
                    break;
                case Role::assistant:
                    add_assistant(turns[i], is_over);
                    break;
                case Role::tool:
                    i = add_results(turns, i, is_over);
                    break;
                case Role::system:
                    break;  // a conversation has none among its turns
            }
        }
        return std::move(tokens_);
    }

    /// The JSON array of `tools`, each a JSON object. Empty for none.
    [[nodiscard]] static std::string list_tools(const std::vector<std::string>& tools) {
        std::string list;
        for (const std::string& tool : tools) list.append(list.empty() ? "[" : ", ").append(rewrite_tool(tool));
        return list.empty() ? list : list + "]";
    }

  private:
    void add_user(const ChatConversation& conversation, std::size_t turn, std::string_view tools) {
        const bool is_last = turn == conversation.last_user_turn();
        const bool takes_prompt = template_ == ChatTemplate::v1 ? turn == 0 : is_last;
        std::string text = takes_prompt ? conversation.system_prompt() : std::string();
        if (!text.empty()) text += "\n\n";
        text += conversation.turns()[turn].content;
        if (template_ == ChatTemplate::v1) return add_text(concat("[INST] ", text, " [/INST]"));
        if (is_last && !tools.empty()) add_between("[AVAILABLE_TOOLS]", tools, "[/AVAILABLE_TOOLS]");
        add_between("[INST]", text, "[/INST]");
    }

    void add_assistant(const Message& turn, bool is_over) {
        if (!turn.tool_calls.empty()) {
            if (template_ == ChatTemplate::v2 && is_over) return;
            add_control("[TOOL_CALLS]");
            add_text(list_calls(turn.tool_calls));
        } else {
            std::string_view text = turn.content;
            while (template_ != ChatTemplate::v1 && text.ends_with(' ')) text.remove_suffix(1);
            add_text(text);
        }
        if (!turn.prefix) tokens_.push_back(tokenizer_.eos());
    }

    /// Adds the results from turn `first` on; returns the last of them. In v2 those of one turn are a list together.
    std::size_t add_results(const std::vector<Message>& turns, std::size_t first, bool is_over) {
        if (template_ == ChatTemplate::v3) {
            const Message& result = turns[first];
            const std::string json = concat("{\"content\": ", json_or_string(result.content), ", \"call_id\": \"",
                                            result.tool_call_id, "\"}");
            add_between("[TOOL_RESULTS]", json, "[/TOOL_RESULTS]");
            return first;
        }
        std::string list;
        std::size_t next = first;
        for (; next < turns.size() && turns[next].role == Role::tool; ++next) {
            const Message& result = turns[next];
            const std::string name = result.tool_name.empty() ? "null" : PythonJsonWriter::string_of(result.tool_name);
            list.append(list.empty() ? "[" : ", ").append("{\"name\": ").append(name);
            list.append(", \"content\": ").append(json_or_string(result.content)).append("}");
        }
        if (!is_over) add_between("[TOOL_RESULTS]", list + "]", "[/TOOL_RESULTS]");
        return next - 1;
    }

    [[nodiscard]] std::string list_calls(const std::vector<ToolCall>& calls) const {
        std::string list;
        for (const ToolCall& call : calls) {
            list.append(list.empty() ? "[" : ", ").append("{\"name\": \"").append(call.name);
            list.append("\", \"arguments\": ").append(json_or_string(call.arguments));
            if (template_ == ChatTemplate::v3) list.append(", \"id\": \"").append(call.id).append("\"");
            list += '}';
        }
        return list + "]";
    }

    /// What a model gets to see of a result or of arguments: JSON as it is, other text as a string.
    static std::string json_or_string(std::string_view text) {
        if (text.empty()) return "{}";
        auto json = PythonJsonWriter::rewrite(text);
        return json ? *std::move(json) : PythonJsonWriter::string_of(text);
    }

    /// A tool with its members in the order of training, as mistral-common's Tool.model_dump.
    static std::string rewrite_tool(std::string_view tool) {
        const auto members = members_of(tool, "a tool", {"type", "function"});
        require(members[0].empty() || members[0] == "\"function\"", "the type of a tool is ", quote(members[0]),
                ", expected \"function\"");
        const auto function =
            members_of(members[1], "the function of a tool", {"name", "description", "parameters", "strict"});
        const std::string name = function[0].starts_with('"') ? function[0].substr(1, function[0].size() - 2) : "";
        require(ChatConversation::is_tool_name(name), "the name of a tool is ", quote(function[0]),
                ", expected a string of 1 to 64 letters, digits, '_' or '-'");
        const std::string description = function[1].empty() || function[1] == "null" ? "\"\"" : function[1];
        const std::string parameters = function[2].empty() || function[2] == "null" ? "{}" : function[2];
        require(description.starts_with('"'), "the description of the tool ", name, " is ", quote(description),
                ", expected a string");
        require(parameters.starts_with('{'), "the parameters of the tool ", name, " are ", quote(parameters),
                ", expected an object");
        return concat("{\"type\": \"function\", \"function\": {\"name\": \"", name,
                      "\", \"description\": ", description, ", \"parameters\": ", parameters, "}}");
    }

    /// The values of `keys` in a JSON object, as JSON, empty where there is none. Throws Error for any other key.
    static std::vector<std::string> members_of(std::string_view json, std::string_view what,
                                               const std::vector<std::string_view>& keys) {
        const auto members = PythonJsonWriter::members(json);
        if (!members) fail(what, " is ", quote(json), ", expected a JSON object");
        std::vector<std::string> values(keys.size());
        for (const auto& [key, value] : *members) {
            std::size_t i = 0;
            while (i < keys.size() && keys[i] != key) ++i;
            if (i == keys.size()) fail(what, " has a member ", quote(key), ", which is not supported");
            values[i] = value;
        }
        return values;
    }

    void add_between(std::string_view begin, std::string_view text, std::string_view end) {
        add_control(begin);
        add_text(text);
        add_control(end);
    }

    void add_text(std::string_view text) {
        const std::vector<Token> tokens = tokenizer_.encode(text, {.bos = false});
        tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    }

    void add_control(std::string_view name) {
        const std::optional<Token> token = tokenizer_.find(name);
        require(token && tokenizer_.is_control(*token), "the vocabulary has no control piece ", name,
                ", which the chat template needs");
        tokens_.push_back(*token);
    }

    const Tokenizer& tokenizer_;
    ChatTemplate template_;
    std::vector<Token> tokens_;
};

/// The tokens of a conversation, ready for the model to answer, as mistral-common's encode_chat_completion gives them:
/// for v2 and v3 `<s>[INST] question[/INST] answer</s>[INST] …`, where what stands in brackets are control tokens and
/// each text between them is encoded on its own. Texts of messages never become control tokens.
///
/// System messages go before the first question in v1, before the last in v2 and v3. `tools` are JSON objects, each
/// `{"type": "function", "function": {"name": …, "description": …, "parameters": {…}}}` with the parameters as a JSON
/// schema; they go before the last question. Throws Error for conversations and tools that no template can express.
[[nodiscard]] inline std::vector<Token> encode_chat(const Tokenizer& tokenizer, ChatTemplate chat_template,
                                                    std::span<const Message> messages,
                                                    const std::vector<std::string>& tools = {}) {
    require(tools.empty() || chat_template != ChatTemplate::v1, "the template v1 has no tools, but ", tools.size(),
            " are given");
    const ChatConversation conversation(chat_template, messages);
    return ChatEncoder(tokenizer, chat_template).encode(conversation, ChatEncoder::list_tools(tools));
}

/// The template for the models that come with this vocabulary: v1 without the control piece `[INST]`, else v3. The
/// vocabularies for v2 and v3 differ in nothing that tells them apart: Mistral 7B Instruct 0.3 wants v3 and ships the
/// vocabulary that was made for v2. Throws Error for later vocabularies, whose templates are not supported.
[[nodiscard]] inline ChatTemplate chat_template_of(const Tokenizer& tokenizer) {
    const auto has = [&](std::string_view name) {
        const std::optional<Token> token = tokenizer.find(name);
        return token && tokenizer.is_control(*token);
    };
    if (!has("[INST]")) return ChatTemplate::v1;
    require(!has("[SYSTEM_PROMPT]"), "the vocabulary has [SYSTEM_PROMPT]: chat templates after v3 are not supported");
    return ChatTemplate::v3;
}

}  // namespace mistral

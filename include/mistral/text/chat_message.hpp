#pragma once

#include <string>
#include <vector>

namespace mistral {

/// How conversations are written for a model. The number is that of Mistral's tokenizers and instruct formats.
enum class ChatTemplate {
    v1,  ///< Mistral 7B Instruct 0.1 and 0.2, Mixtral 8x7B Instruct: `[INST]` is plain text, and there are no tools
    v2,  ///< as v3, but only the tool calls since the last question are told
    v3,  ///< Mistral 7B Instruct 0.3, Mixtral 8x22B Instruct
};

enum class Role { system, user, assistant, tool };

/// A call of a tool, asked for by the assistant.
struct ToolCall {
    std::string id{};         ///< nine letters or digits; v3 only
    std::string name{};       ///< of the tool: letters, digits, '_' and '-'
    std::string arguments{};  ///< JSON: an object; empty for none
};

/// One message of a conversation.
struct Message {
    Role role = Role::user;
    std::string content{};               ///< text; of a tool its result, JSON or text
    std::vector<ToolCall> tool_calls{};  ///< of an assistant, in place of content
    std::string tool_call_id{};          ///< of a tool: the call that it answers; v3 only
    std::string tool_name{};             ///< of a tool; v2 only
    bool prefix = false;                 ///< of the last message, an assistant's: the answer is to continue it
};

}  // namespace mistral

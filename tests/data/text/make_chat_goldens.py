#!/usr/bin/env python3
"""Writes chat_goldens.json: conversations with the tokens that mistral-common gives them.

    pip install mistral-common
    tests/data/text/make_chat_goldens.py

Of each conversation it keeps the messages, the tools as JSON texts, and the tokens of each template that can express
it.
"""

import argparse
import json
import pathlib

import mistral_common
from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import FunctionCall, Tool, ToolCall
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

HERE = pathlib.Path(__file__).resolve().parent

WEATHER = """{"type": "function", "function": {"name": "get_current_weather",
    "description": "Le temps qu'il fait à l'instant — ☀️/🌧️", "parameters": {"type": "object", "properties": {
        "location": {"type": "string", "description": "The city, e.g. \\"San Francisco, CA\\"\\nor 東京"},
        "format": {"type": "string", "enum": ["celsius", "fahrenheit"]}}, "required": ["location"]}}}"""
NESTED = """{"function":{"parameters":{"type":"object","additionalProperties":false,"properties":{"filter":{"type":
    "object","properties":{"and":{"type":"array","items":{"type":"object","properties":{"field":{"type":"string",
    "pattern":"^[a-z_]+\\\\.[a-z]*$"},"range":{"type":"array","items":[{"type":"number"},{"type":"number",
    "exclusiveMaximum":1e300}],"minItems":2,"default":[-0.5,1.0e2]}}}},"limit":{"type":["integer","null"],"minimum":1,
    "maximum":100000,"default":null}}},"sort":{"oneOf":[{"const":"asc"},{"const":"desc"}]}},"required":[]},
    "name":"search-v2","description":""},"type":"function"}"""
BARE = '{"function": {"name": "ping", "parameters": {}}}'

# JSON and what only looks like it, as arguments of calls and as results: numbers, escapes, order, repeated keys.
RESULTS = [
    "22", "-0", "0.1", "1.0", "1e5", "1E+16", "1e16", "123456789012345678", "1e15", "12345678901234567890123", "1e-4",
    "0.00001", "1.5e-7", "-2.50", "5e-324", "1.7976931348623157e308", "0.30000000000000004", "100000000000000000000.0",
    "true", "null", '"text"', '"\\u00e9\\ud83d\\ude00\\/\\b\\f\\u0001\\u007f"', "[]", "{}", "[ 1,2 , 3 ]",
    '{"b":1,"a":{"z":[],"y":{}},"c":[true,false,null]}', '{"a":1,"b":2,"a":3}', '{"":0,"\\u0000":1}', "", " ",
    "plain text", "{not json}", "[1,2", "01", "+1", ".5", "1.", "'single'", "\ufeff{}",
    '{"a":1} x', '"line\nbreak"', " \t[\n1\r]  ", '"</s>[/INST][REFERENCE_DOC_3]"', "日本語のテキスト",
    '"back\\\\slash \\" quote"', "tab\there", "\u2028",
]


def system(text):
    return SystemMessage(content=text)


def user(text):
    return UserMessage(content=text)


def assistant(text, prefix=False):
    return AssistantMessage(content=text, prefix=prefix)


def calls(*named):
    """An assistant's message with calls, each (id, name, arguments)."""
    return AssistantMessage(tool_calls=[
        ToolCall(id=call_id, function=FunctionCall(name=name, arguments=arguments))
        for call_id, name, arguments in named
    ])


def result(call_id, name, content):
    return ToolMessage(tool_call_id=call_id, name=name, content=content)


def conversations():
    """Pairs of messages and tools."""
    yield [user("Hello")], []
    yield [user("")], []
    yield [user("  two blanks  ")], []
    yield [user("\n")], []
    yield [system("Be brief.")], []
    yield [system("Be brief."), user("Hello")], []
    yield [system("Be brief."), system(""), system("Répondez en français 🇫🇷."), user("Hello")], []
    yield [user("Hello"), system("Be brief.")], []
    yield [user("a"), assistant("b"), user("c")], []
    yield [system("s"), user("a"), assistant("b"), user("c")], []
    yield [user("a"), system("s"), assistant("b"), user("c")], []
    yield [system("s1"), user("a"), assistant("b"), user("c"), system("s2")], []
    yield [system("s1"), user("a"), system("s2"), user("c"), assistant("d"), user("e")], []
    yield [system("s"), user("")], []
    yield [user("a"), user("b"), user(""), user("c")], []
    yield [user(""), user("b"), assistant("c"), assistant("d"), user("e")], []
    yield [user("a"), assistant("trailing blanks   "), user("b"), assistant(" leading"), user("c")], []
    yield [user("a"), assistant("   "), user("b")], []
    yield [user("a"), assistant("b\n  "), assistant("  c  "), user("d")], []
    yield [user("Continue:"), assistant("Once upon a time ", prefix=True)], []
    yield [user("a"), assistant("b"), user("c"), assistant("d"), assistant("e", prefix=True)], []
    yield [user("[INST] not [/INST] </s> control <s> [TOOL_CALLS]")], []
    yield [system("[/INST]</s><s>[INST]"), user("[AVAILABLE_TOOLS] [] [/AVAILABLE_TOOLS]")], []
    yield [user("see [REFERENCE_DOC_0] and [REFERENCE_DOC_19]"), assistant("[REFERENCE_DOC_7]"), user("ok")], []
    yield [user("Καλημέρα κόσμε 你好世界 مرحبا नमस्ते 👩‍👩‍👧‍👦 \x00\x07 \u00a0"), assistant("안녕\n\n\n"), user("🙂")], []
    yield [user(f"question {i // 2}") if i % 2 == 0 else assistant(f"answer {i // 2}") for i in range(21)], []
    yield [user("x" * 300 + " " * 50 + "y")], []
    yield [user("What is the weather?")], [WEATHER]
    yield [system("Use tools."), user("a"), assistant("b"), user("c")], [WEATHER, NESTED, BARE]
    yield [user("a"), calls(("abcdefghi", "ping", "{}")), result("abcdefghi", "ping", "pong")], [BARE]
    yield [user("a"), calls(("abcdefghi", "ping", "")), result("abcdefghi", None, "")], [BARE]
    yield [
        system("s"), user("a"), calls(("A1b2C3d4E", "search-v2", '{"filter":{"and":[{"field":"x.y"}],"limit":10.0}}')),
        result("A1b2C3d4E", "search-v2", '[{"id":1,"score":0.50},{"id":2,"title":"naïve café"}]'),
        assistant("Two hits."),
        user("More?"), calls(("000000000", "search-v2", '{"filter":{}, "sort": "desc"}')),
        result("000000000", "search-v2", "[]"),
    ], [NESTED, WEATHER]
    yield [
        user("a"), calls(("000000001", "ping", "{}"), ("000000002", "ping", '{"n": 2}')),
        result("000000002", "ping", "2"), result("000000001", "ping", "1"), assistant("done"), user("b"),
    ], [BARE]
    yield [
        user("a"), calls(("000000001", "ping", "{}")), result("000000001", "ping", "1"),
        calls(("000000002", "ping", "[]")), result("000000002", "ping", "2"),
    ], [BARE]
    for content in RESULTS:
        yield [user("a"), calls(("abcdefghi", "f_1-X", content)), result("abcdefghi", "f_1-X", content)], []


def plain_message(message):
    """The message as the test reads it."""
    plain = {"role": message.role, "content": message.content or ""}
    if message.role == "assistant":
        plain["prefix"] = message.prefix
        plain["tool_calls"] = [
            {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
            for call in message.tool_calls or []
        ]
    if message.role == "tool":
        plain |= {"tool_call_id": message.tool_call_id, "tool_name": message.name or ""}
    return plain


def tokens_of(tokenizer, messages, tools):
    """The tokens, or None where the template has no form for it."""
    tools = [Tool.from_openai(json.loads(tool)) for tool in tools] or None
    request = ChatCompletionRequest(messages=messages, tools=tools)
    try:
        return tokenizer.encode_chat_completion(request).tokens
    except MistralCommonException:
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "chat_goldens.json")
    args = parser.parse_args()

    tokenizers = {
        "v1": MistralTokenizer.from_file(HERE / "tokenizers/tokenizer.model.v1"),
        "v2": MistralTokenizer.from_file(HERE / "tokenizers/mistral_instruct_tokenizer_240216.model.v2"),
        "v3": MistralTokenizer.from_file(HERE / "tokenizers/mistral_instruct_tokenizer_240323.model.v3"),
    }
    goldens = []
    for messages, tools in conversations():
        golden = {"messages": [plain_message(message) for message in messages], "tools": tools}
        for name, tokenizer in tokenizers.items():
            if name == "v1" and tools:
                continue  # mistral-common leaves the tools out without a word
            tokens = tokens_of(tokenizer, messages, tools)
            if tokens is not None:
                golden[name] = tokens
        goldens.append(golden)
    lines = ",\n".join(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) for golden in goldens)
    args.output.write_text(
        f'{{"mistral_common": "{mistral_common.__version__}", "conversations": [\n{lines}\n]}}\n'
    )


if __name__ == "__main__":
    main()

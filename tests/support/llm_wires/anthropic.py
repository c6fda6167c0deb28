"""Anthropic's Messages: blocks of content, thinking with signatures, events with names."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from tests.support.llm_replies import Completion, JsonObject, split_tokens
from tests.support.llm_script import Fault, Route
from tests.support.llm_wires.base import Asked, Endpoint, Event, Incoming, Refused, Wire

VERSION = "2023-06-01"
_ARGUMENT_PIECE = 12
_LEAST_BUDGET = 1024
_MOST_CACHE_MARKS = 4
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_FIELDS = frozenset(
    [
        "cache_control",
        "container",
        "context_management",
        "inference_geo",
        "max_tokens",
        "mcp_servers",
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    ]
)
_BLOCKS = {
    "user": {"text", "image", "document", "tool_result", "search_result"},
    "assistant": {"text", "thinking", "redacted_thinking", "tool_use"},
}
_IMAGE_TYPES = {"image/jpeg", "image/png", "image/gif", "image/webp"}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class AnthropicWire(Wire):
    name = "anthropic"
    prefix = "/anthropic"
    needs_key = True

    def __init__(self) -> None:
        self._signatures: set[str] = set()

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("/v1/messages", "chat"),
            Endpoint("/v1/messages/count_tokens", "count"),
            Endpoint("/v1/models", "models", "GET"),
        ]

    def key(self, incoming: Incoming) -> str | None:
        return incoming.headers.get("x-api-key") or super().key(incoming)

    def refused_key(self, key: str | None) -> Refused:
        return Refused(401, None, "invalid x-api-key" if key else "x-api-key header is required")

    def unknown_model(self, model: str) -> Refused:
        return Refused(404, None, f"model: {model}")

    def read(self, incoming: Incoming, route: Route) -> Asked:
        if not incoming.headers.get("anthropic-version"):
            _refuse("anthropic-version: header is required")
        body = incoming.body
        if not isinstance(body, dict):
            _refuse("The request body is not valid JSON")
        for name in body:
            if name not in _FIELDS:
                _refuse(f"{name}: Extra inputs are not permitted")
        if not isinstance(body.get("model"), str):
            _refuse("model: Field required")
        if route == "chat":
            _check_limit(body)
        if "stream" in body and not isinstance(body["stream"], bool):
            _refuse("stream: Input should be a valid boolean")
        tools = _tools(body)
        messages = self._messages(body)
        choice = _tool_choice(body, tools)
        _check_sampling(body)
        self._check_thinking(body, choice)
        if len(list(_cache_marks(body))) > _MOST_CACHE_MARKS:
            _refuse(f"A maximum of {_MOST_CACHE_MARKS} blocks with cache_control may be provided.")
        chat: JsonObject = {
            "messages": messages,
            "max_tokens": body.get("max_tokens"),
            "stop": body.get("stop_sequences"),
        }
        if tools:
            chat |= {"tools": tools, "tool_choice": choice}
        if schema := _schema(body):
            chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        return Asked(chat)

    def whole(self, asked: Asked, completion: Completion) -> JsonObject:
        return self._message(completion, self._blocks(completion), _stop_reason(completion), _usage(completion))

    def opening(self, asked: Asked, completion: Completion) -> list[Event]:
        begun = {**_usage(completion), "output_tokens": 1}
        return [_event("message_start", message=self._message(completion, [], None, begun)), _event("ping")]

    def content(self, asked: Asked, completion: Completion) -> list[list[Event]]:
        chunks: list[list[Event]] = []
        for index, block in enumerate(self._blocks(completion)):
            empty, deltas = _pieces(block, completion.pieces)
            start = _event("content_block_start", index=index, content_block=empty)
            stop = _event("content_block_stop", index=index)
            own = [[_event("content_block_delta", index=index, delta=delta)] for delta in deltas] or [[]]
            own[0].insert(0, start)
            own[-1].append(stop)
            chunks += own
        return chunks

    def closing(self, asked: Asked, completion: Completion) -> list[Event]:
        delta = {"stop_reason": _stop_reason(completion), "stop_sequence": None}
        return [_event("message_delta", delta=delta, usage=_usage(completion)), _event("message_stop")]

    def models(self, names: list[str]) -> JsonObject:
        return {"data": [{"type": "model", "id": name, "display_name": name} for name in names], "has_more": False}

    def count(self, tokens: int) -> JsonObject:
        return {"input_tokens": tokens}

    def error(self, fault: Fault, *, streamed: bool) -> Any:
        kind = fault.code or _TYPES.get(fault.status, "invalid_request_error" if fault.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": fault.message}, "request_id": "req_emulated"}

    def error_event(self, fault: Fault, completion: Completion | None) -> Event:
        return "error", self.error(fault, streamed=True)

    def keep_alive(self, end: str) -> str:
        return self.frame(_event("ping"), end)

    def _message(
        self, completion: Completion, content: list[JsonObject], stop: str | None, usage: JsonObject
    ) -> JsonObject:
        return {
            "id": f"msg_{completion.id}",
            "type": "message",
            "role": "assistant",
            "model": completion.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": usage,
        }

    def _blocks(self, completion: Completion) -> list[JsonObject]:
        blocks: list[JsonObject] = []
        if completion.reasoning is not None:
            signature = completion.reply.signature or f"signature-of-{completion.id}"
            self._signatures.add(signature)
            blocks.append({"type": "thinking", "thinking": completion.reasoning, "signature": signature})
        for block in completion.content if isinstance(completion.content, list) else []:
            self._signatures |= {str(block[name]) for name in ("signature", "data") if name in block}
            blocks.append(block)
        if isinstance(completion.content, str) and completion.content:
            blocks.append({"type": "text", "text": completion.content})
        for call in completion.tool_calls:
            blocks.append(
                {
                    "type": "tool_use",
                    "id": call["id"].replace("call_", "toolu_"),
                    "name": call["function"]["name"],
                    "input": _input(call["function"]["arguments"]),
                }
            )
        return blocks

    def _messages(self, body: JsonObject) -> list[JsonObject]:
        """Return the conversation in OpenAI's form."""
        given = body.get("messages")
        if not isinstance(given, list):
            _refuse("messages: Field required" if given is None else "messages: Input should be a valid list")
        if not given:
            _refuse("messages: at least one message is required")
        messages: list[JsonObject] = []
        system = body.get("system")
        if isinstance(system, list):
            system = "".join(_text_of(block, f"system.{n}") for n, block in enumerate(system))
        if system is not None and not isinstance(system, str):
            _refuse("system: Input should be a valid string")
        if system:
            messages.append({"role": "system", "content": system})
        awaited: list[str] = []
        for number, message in enumerate(given):
            role, blocks = self._blocks_of(message, number)
            if number == 0 and role != "user":
                _refuse('messages: first message must use the "user" role')
            answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            if missing := [name for name in awaited if name not in answered]:
                _refuse(
                    f"messages.{number - 1}: `tool_use` ids were found without `tool_result` blocks immediately "
                    f"after: {', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block "
                    "in the next message."
                )
            if unknown := [name for name in answered if name not in awaited]:
                _refuse(
                    f"messages.{number}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: "
                    f"{unknown[0]}. Each `tool_result` block must have a corresponding `tool_use` block in the "
                    "previous message."
                )
            awaited = [block["id"] for block in blocks if block["type"] == "tool_use"]
            messages += _as_openai(role, blocks)
        if awaited:
            _refuse(
                f"messages.{len(given) - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(awaited)}."
            )
        return messages

    def _blocks_of(self, message: Any, number: int) -> tuple[str, list[JsonObject]]:
        where = f"messages.{number}"
        if not isinstance(message, dict) or message.get("role") not in _BLOCKS:
            _refuse(f"{where}.role: Input should be 'user' or 'assistant'")
        role, content = message["role"], message.get("content")
        if content == "" or content == []:
            _refuse(
                f"{where}: all messages must have non-empty content except for the optional final assistant message"
            )
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            _refuse(f"{where}.content: Input should be a valid list")
        for index, block in enumerate(content):
            self._check_block(role, block, f"{where}.content.{index}")
        return role, content

    def _check_block(self, role: str, block: Any, where: str) -> None:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in _BLOCKS[role]:
            _refuse(f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags")
        if kind == "text":
            if not isinstance(block.get("text"), str):
                _refuse(f"{where}.text.text: Field required")
            if not block["text"]:
                _refuse("messages: text content blocks must be non-empty")
        if kind in ("tool_use", "tool_result"):
            _check_tool_block(kind, block, where)
        if kind in ("thinking", "redacted_thinking"):
            signed = block.get("signature" if kind == "thinking" else "data")
            if not isinstance(signed, str):
                _refuse(f"{where}.{kind}.signature: Field required")
            if signed not in self._signatures:
                _refuse(f"{where}: Invalid `signature` in `{kind}` block")
        if kind in ("image", "document"):
            _check_source(kind, block.get("source"), where)

    def _check_thinking(self, body: JsonObject, choice: Any) -> None:
        thinking = body.get("thinking")
        if thinking is None:
            return
        if not isinstance(thinking, dict) or thinking.get("type") not in ("enabled", "disabled", "adaptive"):
            _refuse("thinking: Input tag found using 'type' does not match any of the expected tags")
        if thinking["type"] == "disabled":
            return
        if thinking["type"] == "enabled":
            budget = thinking.get("budget_tokens")
            if not isinstance(budget, int):
                _refuse("thinking.enabled.budget_tokens: Field required")
            if budget < _LEAST_BUDGET:
                _refuse(f"thinking.enabled.budget_tokens: Input should be greater than or equal to {_LEAST_BUDGET}")
            if budget >= body.get("max_tokens", budget + 1):
                _refuse("`max_tokens` must be greater than `thinking.budget_tokens`.")
        if body.get("temperature", 1) != 1:
            _refuse("`temperature` may only be set to 1 when thinking is enabled.")
        if choice == "required" or isinstance(choice, dict):
            _refuse("Thinking may not be enabled when tool_choice forces tool use.")
        turns = [m for m in body["messages"] if m["role"] == "assistant" and isinstance(m["content"], list)]
        if turns and any(block["type"] == "tool_use" for block in turns[-1]["content"]):
            first = turns[-1]["content"][0]["type"]
            if first not in ("thinking", "redacted_thinking"):
                _refuse(
                    f"messages.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{first}`. When "
                    "`thinking` is enabled, a final `assistant` message must start with a thinking block"
                )


def _refuse(message: str) -> NoReturn:
    raise Refused(400, None, message)


def _event(name: str, **fields: Any) -> Event:
    return name, {"type": name, **fields}


def _text_of(block: Any, where: str) -> str:
    if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
        _refuse(f"{where}: Input should be a valid text block")
    if not block["text"]:
        _refuse("system: text content blocks must be non-empty")
    return str(block["text"])


def _check_limit(body: JsonObject) -> None:
    limit = body.get("max_tokens")
    if limit is None:
        _refuse("max_tokens: Field required")
    if not isinstance(limit, int) or isinstance(limit, bool):
        _refuse("max_tokens: Input should be a valid integer")
    if limit < 1:
        _refuse("max_tokens: Input should be greater than or equal to 1")


def _check_sampling(body: JsonObject) -> None:
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            _refuse(f"{name}: Input should be a valid number")
        if not 0 <= value <= 1:
            _refuse(f"{name}: range: 0..1")
    stop = body.get("stop_sequences")
    if stop is not None and (not isinstance(stop, list) or not all(isinstance(s, str) for s in stop)):
        _refuse("stop_sequences: Input should be a valid list")
    if any(not text.strip() for text in stop or ()):
        _refuse("stop_sequences: each stop sequence must contain non-whitespace")


def _tools(body: JsonObject) -> list[JsonObject]:
    """Return the tools in OpenAI's form."""
    given = body.get("tools")
    if given is None:
        return []
    if not isinstance(given, list):
        _refuse("tools: Input should be a valid list")
    tools: list[JsonObject] = []
    for index, tool in enumerate(given):
        where = f"tools.{index}"
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            _refuse(f"{where}.name: Field required")
        if not _TOOL_NAME.fullmatch(tool["name"]):
            _refuse(f"{where}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        schema = tool.get("input_schema")
        if not isinstance(schema, dict):
            _refuse(f"{where}.custom.input_schema: Field required")
        if schema.get("type") != "object":
            _refuse(f"{where}.custom.input_schema.type: Field required")
        tools.append({"type": "function", "function": {"name": tool["name"], "parameters": schema}})
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) != len(names):
        _refuse("tools: Tool names must be unique.")
    return tools


def _tool_choice(body: JsonObject, tools: list[JsonObject]) -> Any:
    choice = body.get("tool_choice")
    if choice is None:
        return "auto"
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in ("auto", "any", "tool", "none"):
        _refuse("tool_choice: Input tag found using 'type' does not match any of the expected tags")
    if not tools:
        _refuse("tool_choice may only be specified while providing tools.")
    if kind == "tool":
        names = [tool["function"]["name"] for tool in tools]
        if choice.get("name") not in names:
            _refuse(f"Tool '{choice.get('name')}' not found in provided tools")
        return {"type": "function", "function": {"name": choice["name"]}}
    return {"auto": "auto", "any": "required", "none": "none"}[kind]


def _check_tool_block(kind: str, block: JsonObject, where: str) -> None:
    if kind == "tool_use":
        if not isinstance(block.get("id"), str) or not _ID.fullmatch(block["id"]):
            _refuse(f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
        if not isinstance(block.get("name"), str):
            _refuse(f"{where}.tool_use.name: Field required")
        if not isinstance(block.get("input"), dict):
            _refuse(f"{where}.tool_use.input: Input should be a valid dictionary")
    if kind == "tool_result":
        if not isinstance(block.get("tool_use_id"), str):
            _refuse(f"{where}.tool_result.tool_use_id: Field required")
        if not isinstance(block.get("content", ""), str | list):
            _refuse(f"{where}.tool_result.content: Input should be a valid list")


def _check_source(kind: str, source: Any, where: str) -> None:
    if not isinstance(source, dict) or source.get("type") not in ("base64", "url", "text", "file"):
        _refuse(f"{where}.{kind}.source: Field required")
    if source["type"] == "base64":
        allowed = _IMAGE_TYPES if kind == "image" else {"application/pdf"}
        if source.get("media_type") not in allowed:
            _refuse(f"{where}.{kind}.source.base64.media_type: Input should be {sorted(allowed)}")
        if not isinstance(source.get("data"), str) or not source["data"]:
            _refuse(f"{where}.{kind}.source.base64.data: Field required")


def _cache_marks(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("cache_control") is not None:
            yield value
        for inner in value.values():
            yield from _cache_marks(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _cache_marks(inner)


def _schema(body: JsonObject) -> JsonObject | None:
    config = body.get("output_config")
    made = body.get("output_format") or (config.get("format") if isinstance(config, dict) else None)
    if made is None:
        return None
    if not isinstance(made, dict) or made.get("type") != "json_schema" or not isinstance(made.get("schema"), dict):
        _refuse("output_format: Input should be a JSON schema")
    schema: JsonObject = made["schema"]
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        _refuse("output_format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false")
    return schema


def _as_openai(role: str, blocks: list[JsonObject]) -> list[JsonObject]:
    messages: list[JsonObject] = []
    for block in blocks:
        if block["type"] == "tool_result":
            content = block.get("content", "")
            messages.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": content})
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    calls = [
        {"id": b["id"], "type": "function", "function": {"name": b["name"], "arguments": json.dumps(b["input"])}}
        for b in blocks
        if b["type"] == "tool_use"
    ]
    if text or calls or not messages:
        messages.append({"role": role, "content": text} | ({"tool_calls": calls} if calls else {}))
    return messages


def _input(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _stop_reason(completion: Completion) -> str:
    return _STOP_REASONS.get(completion.finish_reason, completion.finish_reason)


def _usage(completion: Completion) -> JsonObject:
    usage = completion.usage or {"prompt_tokens": 0, "completion_tokens": 0}
    details = usage.get("prompt_tokens_details") or {}
    read, written = details.get("cached_tokens", 0), details.get("cache_write_tokens", 0)
    return {
        # What the cache served or took does not count here.
        "input_tokens": usage["prompt_tokens"] - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage["completion_tokens"],
        "service_tier": "standard",
    }


def _pieces(block: JsonObject, pieces: list[str]) -> tuple[JsonObject, list[JsonObject]]:
    """Return a block as it begins, and the deltas that fill it."""
    match block["type"]:
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in split_tokens(block["thinking"])]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, deltas
        case "text":
            cut = pieces if "".join(pieces) == block["text"] else split_tokens(block["text"])
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in cut]
        case "tool_use":
            given = block["input"]
            raw = given if isinstance(given, str) else json.dumps(given)
            # An empty object comes as no JSON at all.
            raw = "" if raw == "{}" else raw
            starts = range(0, len(raw), _ARGUMENT_PIECE)
            parts = ["", *(raw[start : start + _ARGUMENT_PIECE] for start in starts)]
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]
        case _:
            return block, []

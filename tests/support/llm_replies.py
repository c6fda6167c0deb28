"""Payloads of an OpenAI-compatible upstream, built from a request and a scripted reply."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

from tests.support.llm_script import Reply, Usage

ECHO_LIMIT = 2000
_TOKEN = re.compile(r"\s*\S+|\s+\Z")
_ARGUMENT_PIECE = 12
_OPTIONAL_DEPTH = 8

JsonObject = dict[str, Any]


def split_tokens(text: str) -> list[str]:
    """Cut `text` into word-sized pieces whose join is `text` again."""
    return _TOKEN.findall(text)


def gpt_oss_blocks(reasoning: str, text: str, *, signature: str | None = None) -> list[JsonObject]:
    """Content of a gpt-oss model on Databricks: a reasoning block, with or without `signature`, then a text block."""
    summary: JsonObject = {"type": "summary_text", "text": reasoning}
    if signature is not None:
        summary["signature"] = signature
    return [{"type": "reasoning", "summary": [summary]}, {"type": "text", "text": text}]


def content_text(content: object) -> str:
    """Text of a message's content, be it a string, a list of typed parts, or nothing."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def echo_text(messages: list[JsonObject]) -> str:
    """The answer given without a rule: the last user message, cut to ECHO_LIMIT characters."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return f"Echo: {content_text(message.get('content'))[:ECHO_LIMIT]}"
    return "Echo:"


class SchemaError(ValueError):
    """A JSON schema that cannot be read."""


def schema_instance(schema: JsonObject, text: str) -> Any:
    """A value that fits `schema`, with `text` for every free string; SchemaError when the schema is none."""
    try:
        return _instance(schema, text, schema, 0)
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise SchemaError(f"Invalid schema: {type(error).__name__} {error}") from None


def _instance(schema: JsonObject, text: str, root: JsonObject, depth: int) -> Any:
    """Beyond _OPTIONAL_DEPTH only what the schema requires is made, so that recursive schemas end."""
    if "$ref" in schema:
        target: Any = root
        for step in str(schema["$ref"]).removeprefix("#").split("/"):
            target = target[step] if step else target
        return _instance(target, text, root, depth + 1)
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if "enum" in schema:
        return schema["enum"][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            return _instance(schema[keyword][-1 if depth > _OPTIONAL_DEPTH else 0], text, root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {
            name: _instance(value, text, root, depth + 1)
            for name, value in schema.get("properties", {}).items()
            if depth <= _OPTIONAL_DEPTH or name in schema.get("required", [])
        }
    if kind == "array":
        count = int(schema.get("minItems", 0 if depth > _OPTIONAL_DEPTH else 1))
        return [_instance(schema.get("items", {}), text, root, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    limit = schema.get("maxLength")
    return text.ljust(int(schema.get("minLength", 0)), ".")[:limit]


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer, before it is cut into a message or a stream."""

    id: str
    model: str
    created: int
    content: str | list[JsonObject] | None
    pieces: list[str]
    reasoning: str | None
    tool_calls: list[JsonObject]
    finish_reason: str
    usage: JsonObject | None
    plain_text_deltas: bool
    reply: Reply

    @property
    def text(self) -> str:
        return content_text(self.content)

    def message_body(self) -> JsonObject:
        message: JsonObject = {"role": "assistant", "content": self.content}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.reply.refusal is not None:
            message["refusal"] = self.reply.refusal
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        body: JsonObject = {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}],
        }
        if self.usage is not None:
            body["usage"] = self.usage
        return body

    def opening_chunk(self) -> JsonObject:
        return self.chunk({"role": "assistant", "content": "" if not self.tool_calls else None})

    def content_chunks(self) -> list[JsonObject]:
        deltas: list[JsonObject] = []
        if self.reasoning is not None:
            deltas += [{"reasoning_content": piece} for piece in split_tokens(self.reasoning)]
        if isinstance(self.content, list):
            deltas += self._block_deltas(self.content)
        else:
            deltas += [{"content": piece} for piece in self.pieces]
        if self.reply.refusal is not None:
            deltas += [{"refusal": piece} for piece in split_tokens(self.reply.refusal)]
        for index, call in enumerate(self.tool_calls):
            deltas += _tool_call_deltas(index, call)
        return [self.chunk(delta) for delta in deltas]

    def closing_chunks(self, *, include_usage: bool) -> list[JsonObject]:
        chunks = [self.chunk({}, finish_reason=self.finish_reason)]
        if include_usage and self.usage is not None:
            chunks.append({**self.chunk({}), "choices": [], "usage": self.usage})
        return chunks

    def chunk(self, delta: JsonObject, *, finish_reason: str | None = None) -> JsonObject:
        """An event of a stream in OpenAI's form."""
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
        }

    def _block_deltas(self, blocks: list[JsonObject]) -> list[JsonObject]:
        deltas: list[JsonObject] = []
        for block in blocks:
            if block.get("type") == "reasoning":
                for summary in block.get("summary", []):
                    # What is beside the text (a signature) comes once, with the last piece.
                    beside = {key: value for key, value in summary.items() if key not in ("type", "text")}
                    pieces = split_tokens(summary.get("text", "")) or [""]
                    for number, piece in enumerate(pieces, start=1):
                        part = {"type": "summary_text", "text": piece} | (beside if number == len(pieces) else {})
                        deltas.append({"content": [{"type": "reasoning", "summary": [part]}]})
            elif block.get("type") == "text":
                for piece in split_tokens(block.get("text", "")):
                    deltas.append({"content": piece if self.plain_text_deltas else [{"type": "text", "text": piece}]})
            else:
                deltas.append({"content": [block]})
        return deltas


def _tool_call_deltas(index: int, call: JsonObject) -> list[JsonObject]:
    function = call["function"]
    opening = {"index": index, "id": call["id"], "type": "function"}
    deltas = [{"tool_calls": [{**opening, "function": {"name": function["name"], "arguments": ""}}]}]
    arguments = function["arguments"]
    for start in range(0, len(arguments), _ARGUMENT_PIECE):
        piece = arguments[start : start + _ARGUMENT_PIECE]
        deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    return deltas


def build_completion(number: int, model: str, request: JsonObject, reply: Reply) -> Completion:
    """Answer chat `request` (the `number`th call) as `reply` says, or with the echo where it says nothing."""
    tool_calls = [
        {
            "id": call.id or f"call_{number}_{index}",
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments),
            },
        }
        for index, call in enumerate(reply.tool_calls)
    ] or _forced_tool_calls(number, request, reply)
    text, pieces, cut = _text(request, reply, has_tool_calls=bool(tool_calls))
    content: str | list[JsonObject] | None = reply.content_blocks if reply.content_blocks is not None else text
    return Completion(
        id=f"chatcmpl-{number}",
        model=model,
        created=int(time.time()),
        content=content,
        pieces=pieces,
        reasoning=reply.reasoning,
        tool_calls=tool_calls,
        finish_reason=reply.finish_reason or ("tool_calls" if tool_calls else "length" if cut else "stop"),
        usage=None if reply.omit_usage else _usage(request, reply, text, tool_calls),
        plain_text_deltas=reply.plain_text_deltas,
        reply=reply,
    )


def _scripted_content(reply: Reply) -> bool:
    return any(value is not None for value in (reply.text, reply.chunks, reply.content_blocks, reply.refusal))


def _text(request: JsonObject, reply: Reply, *, has_tool_calls: bool) -> tuple[str | None, list[str], bool]:
    """The text, its pieces, and whether the token limit cut it. Scripted text is sent as it is."""
    if reply.chunks is not None:
        return "".join(reply.chunks), list(reply.chunks), False
    if reply.text is not None:
        return reply.text, split_tokens(reply.text), False
    if reply.content_blocks is not None:
        return content_text(reply.content_blocks), [], False
    if has_tool_calls or reply.refusal is not None:
        return None, [], False
    text = echo_text(request["messages"])
    response_format = request.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        schema = (response_format.get("json_schema") or {}).get("schema") or {}
        text = json.dumps(schema_instance(schema, text))
    elif response_format.get("type") == "json_object":
        text = json.dumps({"echo": text})
    stop = request.get("stop") or []
    for mark in [stop] if isinstance(stop, str) else stop:
        text = text.split(mark, 1)[0] if mark else text
    pieces = split_tokens(text)
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    if isinstance(limit, int) and len(pieces) > limit:
        pieces = pieces[:limit]
        return "".join(pieces), pieces, True
    return text, pieces, False


def _forced_tool_calls(number: int, request: JsonObject, reply: Reply) -> list[JsonObject]:
    """`tool_choice` may demand a call; without a rule its arguments are made from the tool's own schema."""
    choice = request.get("tool_choice")
    functions = {tool["function"]["name"]: tool["function"] for tool in request.get("tools") or []}
    if _scripted_content(reply) or not functions:
        return []
    if choice == "required":
        name = next(iter(functions))
    elif isinstance(choice, dict):
        name = choice["function"]["name"]
    else:
        return []
    arguments = schema_instance(functions[name].get("parameters") or {"type": "object"}, echo_text(request["messages"]))
    return [
        {
            "id": f"call_{number}_0",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
    ]


def _usage(request: JsonObject, reply: Reply, text: str | None, tool_calls: list[JsonObject]) -> JsonObject:
    usage = reply.usage
    if usage is None:
        written = [text or "", reply.reasoning or "", *(call["function"]["arguments"] for call in tool_calls)]
        usage = Usage(
            prompt_tokens=sum(len(split_tokens(content_text(m.get("content")))) for m in request["messages"]),
            completion_tokens=sum(len(split_tokens(part)) for part in written),
        )
    body: JsonObject = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if usage.reasoning_tokens is not None:
        body["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.cached_tokens is not None:
        body["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.cache_write_tokens is not None:
        body.setdefault("prompt_tokens_details", {})["cache_write_tokens"] = usage.cache_write_tokens
    return body

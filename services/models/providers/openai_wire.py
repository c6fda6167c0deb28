"""OpenAI's HTTP interface and its dialects: requests out of domain values, domain values out of answers."""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.models.domain.answer import (
    Answer,
    Delta,
    Embeddings,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Vectors,
)
from services.models.domain.conversation import Completion, Message, MessageRole, ToolCall
from services.models.domain.model import Model, Provider
from services.models.domain.usage import Usage

Json = Mapping[str, Any]
_CHOICES = ("auto", "none", "required")
_FINISH = {reason.value: reason for reason in FinishReason} | {"function_call": FinishReason.TOOL_CALLS}
_REASONING_FIELDS = ("reasoning_content", "reasoning")


class BadResponse(Exception):
    """An answer that is no such answer. The text is ours and quotes nothing of it."""


# Requests


def chat_request(model: Model, completion: Completion, *, stream: bool) -> dict[str, Any]:
    """Return the body of a chat completion."""
    spec, sampling = model.spec, completion.sampling
    body: dict[str, Any] = {
        "model": spec.upstream_name,
        "messages": [_message(message) for message in completion.messages],
    }
    if stream:
        body["stream"] = True
        if spec.provider is not Provider.DATABRICKS:
            body["stream_options"] = {"include_usage": True}
    if completion.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters_schema or {"type": "object", "properties": {}},
                },
            }
            for tool in completion.tools
        ]
        choice = completion.tool_choice
        if choice in _CHOICES:
            body["tool_choice"] = choice
        elif choice:
            body["tool_choice"] = {"type": "function", "function": {"name": choice}}
    if completion.response_format is not None:
        schema = completion.response_format.schema
        body["response_format"] = (
            {
                "type": "json_schema",
                "json_schema": {
                    "name": completion.response_format.name or "answer",
                    "schema": schema,
                    "strict": _can_be_strict(schema),
                },
            }
            if schema
            else {"type": "json_object"}
        )
    temperature = sampling.temperature if sampling.temperature is not None else spec.temperature
    limits = [limit for limit in (sampling.max_output_tokens, spec.max_output_tokens) if limit]
    # OpenAI's reasoning models know only the newer name, older servers of others only the older one.
    limit_name = (
        "max_completion_tokens" if spec.provider is Provider.OPENAI and spec.capabilities.reasoning else "max_tokens"
    )
    optional = {
        "temperature": temperature,
        "top_p": sampling.top_p,
        limit_name: min(limits) if limits else None,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "reasoning_effort": sampling.reasoning_effort or None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def embeddings_request(model: Model, texts: Sequence[str]) -> dict[str, Any]:
    """Return the body of an embeddings call."""
    body: dict[str, Any] = {"model": model.spec.upstream_name, "input": list(texts)}
    if model.spec.provider is Provider.OPENAI:
        # A quarter of the bytes, and read without parsing a million numbers.
        body["encoding_format"] = "base64"
    return body


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role.value, "content": message.text}
    if message.tool_calls:
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json or "{}"},
            }
            for call in message.tool_calls
        ]
        body["content"] = message.text or None
    if message.role is MessageRole.TOOL:
        body["tool_call_id"] = message.tool_call_id
    return body


def _can_be_strict(schema: Any) -> bool:
    """Whether upstreams enforce a schema to the letter: every object closed, every property required."""
    if isinstance(schema, list):
        return all(_can_be_strict(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties):
            return False
        return all(_can_be_strict(value) for value in properties.values())
    return all(_can_be_strict(value) for value in schema.values())


# Answers


def read_answer(document: Any) -> Answer:
    """Return the answer in a chat completion.

    Raises:
        BadResponse: it is none.
    """
    choice = _first_choice(document)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BadResponse("its choice has no message")
    text, reasoning = read_content(message.get("content"))
    reasoning = _reasoning(message) + reasoning
    tool_calls = tuple(
        _tool_call(index, call) for index, call in enumerate(_list(message.get("tool_calls"), "tool_calls"))
    )
    return Answer(
        text=text,
        reasoning=reasoning,
        tool_calls=tool_calls,
        finish_reason=read_finish(choice.get("finish_reason"), has_tool_calls=bool(tool_calls)),
        usage=read_usage(document.get("usage")),
        upstream_model=_string(document.get("model")),
    )


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a stream."""

    deltas: tuple[Delta, ...] = ()
    finish: str | None = None
    usage: Usage | None = None
    upstream_model: str = ""


def read_chunk(document: Any) -> Chunk:
    """Return what one event of a streamed chat completion says.

    Raises:
        BadResponse: it is no such event.
    """
    if not isinstance(document, dict):
        raise BadResponse("an event of its stream is no object")
    usage = read_usage(document.get("usage"))
    upstream_model = _string(document.get("model"))
    if not document.get("choices"):
        # What counts tokens, keeps the connection alive or names filters comes without a choice.
        return Chunk(usage=usage, upstream_model=upstream_model)
    choice = _first_choice(document)
    delta = choice.get("delta") or {}
    if not isinstance(delta, dict):
        raise BadResponse("an event of its stream has no delta")
    text, reasoning = read_content(delta.get("content"))
    deltas: list[Delta] = []
    if reasoning := _reasoning(delta) + reasoning:
        deltas.append(ReasoningDelta(reasoning))
    if text:
        deltas.append(TextDelta(text))
    for position, call in enumerate(_list(delta.get("tool_calls"), "tool_calls")):
        deltas.append(_tool_call_delta(position, call))
    finish = choice.get("finish_reason")
    return Chunk(tuple(deltas), finish if isinstance(finish, str) else None, usage, upstream_model)


def read_content(content: Any) -> tuple[str, str]:
    """Return text and reasoning of a message's content.

    Besides a string it may be a list of blocks, as gpt-oss sends it: reasoning in summaries (signed or not), then text.
    """
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise BadResponse("its content is neither text nor blocks")
    text: list[str] = []
    reasoning: list[str] = []
    for block in content:
        if isinstance(block, str):
            text.append(block)
        elif not isinstance(block, dict):
            raise BadResponse("a block of its content is no object")
        elif block.get("type") in ("reasoning", "thinking", "summary_text"):
            reasoning.append(_reasoning_of(block))
        elif isinstance(block.get("text"), str):
            text.append(block["text"])
    return "".join(text), "".join(reasoning)


def _reasoning_of(block: Json) -> str:
    summary = block.get("summary")
    if isinstance(summary, list):
        return "".join(_string(part.get("text")) if isinstance(part, dict) else _string(part) for part in summary)
    return next(
        (value for name in ("thinking", "text", "content", "summary") if (value := _string(block.get(name)))), ""
    )


def _reasoning(message: Json) -> str:
    return next((value for name in _REASONING_FIELDS if (value := _string(message.get(name)))), "")


def read_finish(reason: Any, *, has_tool_calls: bool) -> FinishReason:
    """Return why an answer ended; servers that name no reason of the interface's are taken to be done."""
    known = _FINISH.get(reason) if isinstance(reason, str) else None
    # Some servers say "stop" beside tool calls.
    if has_tool_calls and known in (None, FinishReason.STOP):
        return FinishReason.TOOL_CALLS
    return known or FinishReason.STOP


def read_usage(usage: Any) -> Usage | None:
    """Return the tokens an upstream counted, or None when it sent none."""
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        return None
    output = usage.get("completion_tokens_details")
    prompt = usage.get("prompt_tokens_details")
    return Usage(
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        reasoning_tokens=_count(output, "reasoning_tokens"),
        cached_input_tokens=_count(prompt, "cached_tokens"),
    )


def read_embeddings(document: Any, expected: int) -> Embeddings:
    """Return unit-length vectors in the order of the request.

    Raises:
        BadResponse: they are not `expected` vectors of one length with a direction.
    """
    if not isinstance(document, dict):
        raise BadResponse("it is no object")
    data = _list(document.get("data"), "data")
    if len(data) != expected:
        raise BadResponse(f"it has {len(data)} embeddings for {expected} texts")
    if all(isinstance(row, dict) and isinstance(row.get("index"), int) for row in data):
        data = sorted(data, key=lambda row: row["index"])
    rows = [_vector(row.get("embedding") if isinstance(row, dict) else None) for row in data]
    if len({row.shape for row in rows}) != 1 or rows[0].size == 0:
        raise BadResponse("its embeddings differ in length or are empty")
    vectors: Vectors = np.stack(rows)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(vectors).all() or not (lengths > 0).all():
        raise BadResponse("an embedding has no direction")
    return Embeddings(vectors / lengths, read_usage(document.get("usage")))


def _vector(value: Any) -> Vectors:
    try:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
        if isinstance(value, list):
            return np.asarray(value, dtype=np.float32).reshape(-1)
    except (ValueError, TypeError, binascii.Error) as error:
        raise BadResponse("an embedding is no list of numbers") from error
    raise BadResponse("an embedding is no list of numbers")


def _first_choice(document: Any) -> dict[str, Any]:
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadResponse("it has no choices")
    return choices[0]


def _tool_call(index: int, call: Any) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not _string(function.get("name")):
        raise BadResponse("a tool call names no function")
    return ToolCall(
        id=_string(call.get("id")) or f"call_{index}",
        name=function["name"],
        arguments_json=_arguments(function.get("arguments")) or "{}",
    )


def _tool_call_delta(position: int, call: Any) -> ToolCallDelta:
    if not isinstance(call, dict):
        raise BadResponse("a tool call of its stream is no object")
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    index = call.get("index")
    return ToolCallDelta(
        index=index if isinstance(index, int) else position,
        id=_string(call.get("id")),
        name=_string(function.get("name")),
        arguments_json=_arguments(function.get("arguments")),
    )


def _arguments(value: Any) -> str:
    """Arguments are JSON text; some servers send the object itself."""
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict) else ""


def _list(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadResponse(f"its {name} is no list")
    return value


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(document: Any, name: str) -> int:
    value = document.get(name) if isinstance(document, dict) else None
    return int(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0

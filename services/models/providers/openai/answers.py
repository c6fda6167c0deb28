"""Answers of OpenAI's HTTP interface and its dialects."""

import base64
import binascii
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from services.models.domain.answer import (
    Answer,
    Delta,
    Embeddings,
    FinishDelta,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageDelta,
    Vectors,
)
from services.models.domain.conversation import ToolCall
from services.models.domain.model import Model
from services.models.domain.usage import Usage
from services.models.providers.upstream_errors import bad_response

T = TypeVar("T")
Json = Mapping[str, Any]
_FINISH = {reason.value: reason for reason in FinishReason} | {"function_call": FinishReason.TOOL_CALLS}
_REASONING_FIELDS = ("reasoning_content", "reasoning")


class BadResponse(Exception):
    """A response that cannot be read. The text is ours and quotes nothing of it."""


def read(model: Model, reader: Callable[[Any], T], document: Any) -> T:
    """Return what `reader` makes of a response of the model's upstream.

    Raises:
        CoxswainError: the response cannot be read.
    """
    try:
        return reader(document)
    except BadResponse as error:
        raise bad_response(model, str(error)) from error


def read_answer(document: Any) -> Answer:
    """Return the answer in a chat completion.

    Raises:
        BadResponse: it cannot be read as one.
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


async def read_stream(model: Model, documents: AsyncIterator[Any]) -> AsyncGenerator[Delta, None]:
    """Yield an answer as its events come: text, reasoning and tool calls, then usage if there is any, then the finish.

    Raises:
        CoxswainError: an event cannot be read, or the events end before the finish.
    """
    usage: Usage | None = None
    finish: str | None = None
    upstream_model = ""
    calls_tools = False
    async for document in documents:
        chunk = read(model, read_chunk, document)
        usage = chunk.usage or usage
        finish = chunk.finish or finish
        upstream_model = chunk.upstream_model or upstream_model
        for delta in chunk.deltas:
            calls_tools = calls_tools or isinstance(delta, ToolCallDelta)
            yield delta
    if finish is None:
        raise bad_response(model, "its stream ended before the finish")
    if usage is not None:
        yield UsageDelta(usage)
    yield FinishDelta(read_finish(finish, has_tool_calls=calls_tools), upstream_model)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a stream."""

    deltas: tuple[Delta, ...] = ()
    finish: str | None = None
    usage: Usage | None = None
    upstream_model: str = ""


def read_chunk(document: Any) -> Chunk:
    """Return what one event of a streamed chat completion holds.

    Raises:
        BadResponse: it cannot be read as one.
    """
    if not isinstance(document, dict):
        raise BadResponse("an event of its stream is not an object")
    usage = read_usage(document.get("usage"))
    upstream_model = _string(document.get("model"))
    if not document.get("choices"):
        # Events that count tokens, keep the connection alive or name filters have no choice.
        return Chunk(usage=usage, upstream_model=upstream_model)
    choice = _first_choice(document)
    delta = choice.get("delta") or {}
    if not isinstance(delta, dict):
        raise BadResponse("the delta in an event of its stream is not an object")
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
        raise BadResponse("its content is neither text nor a list of blocks")
    text: list[str] = []
    reasoning: list[str] = []
    for block in content:
        if isinstance(block, str):
            text.append(block)
        elif not isinstance(block, dict):
            raise BadResponse("a block of its content is not an object")
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
    """Return why an answer ended; a reason that the interface does not have counts as STOP."""
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
        BadResponse: they are not `expected` vectors of one length, finite and not zero.
    """
    if not isinstance(document, dict):
        raise BadResponse("it is not a JSON object")
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
        raise BadResponse("an embedding is zero or not finite")
    return Embeddings(vectors / lengths, read_usage(document.get("usage")))


def _vector(value: Any) -> Vectors:
    try:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
        if isinstance(value, list):
            return np.asarray(value, dtype=np.float32).reshape(-1)
    except (ValueError, TypeError, binascii.Error) as error:
        raise BadResponse("an embedding is not a list of numbers") from error
    raise BadResponse("an embedding is not a list of numbers")


def _first_choice(document: Any) -> dict[str, Any]:
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadResponse("it has no choices")
    return choices[0]


def _tool_call(index: int, call: Any) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not _string(function.get("name")):
        raise BadResponse("a tool call does not name a function")
    return ToolCall(
        id=_string(call.get("id")) or f"call_{index}",
        name=function["name"],
        arguments_json=_arguments(function.get("arguments")) or "{}",
    )


def _tool_call_delta(position: int, call: Any) -> ToolCallDelta:
    if not isinstance(call, dict):
        raise BadResponse("a tool call in its stream is not an object")
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
        raise BadResponse(f"its {name} is not a list")
    return value


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(document: Any, name: str) -> int:
    value = document.get(name) if isinstance(document, dict) else None
    return int(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0

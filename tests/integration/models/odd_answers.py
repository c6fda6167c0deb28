"""Answers as upstreams send them that keep to OpenAI's interface in their own way."""

import json
from typing import Any


def call(index: int | None, name: str = "", arguments: str = "", call_id: str | None = None) -> dict[str, Any]:
    """Return a piece of a tool call."""
    piece: dict[str, Any] = {"type": "function", "function": {"arguments": arguments}}
    if index is not None:
        piece["index"] = index
    if name:
        piece["function"]["name"] = name
    if call_id is not None:
        piece["id"] = call_id
    return piece


def streamed(*deltas: dict[str, Any], finish: str | None = "stop", usage: Any = None) -> str:
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    events: list[dict[str, Any]] = [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    if finish is not None:
        events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "usage": usage})
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def whole(message: dict[str, Any], finish: str = "stop", usage: Any = None, *, escaped: bool = True) -> str:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    document = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(document, ensure_ascii=escaped)


X, Y = '{"x": 1}', '{"y": 2}'
ODD_STREAMS = {
    "id in each piece": streamed(
        {"tool_calls": [call(0, "f", '{"x"', "a")]}, {"tool_calls": [call(0, "f", ": 1}", "a")]}, finish="tool_calls"
    ),
    "alternating": streamed(
        {"tool_calls": [call(0, "f", '{"x"', "a")]},
        {"tool_calls": [call(1, "g", '{"y"', "b")]},
        {"tool_calls": [call(0, "f", ": 1}", "a")]},
        {"tool_calls": [call(1, "g", ": 2}", "b")]},
        finish="tool_calls",
    ),
    "no index": streamed({"tool_calls": [call(None, "f", X, "a")]}, {"tool_calls": [call(None, "g", Y, "b")]}),
    "index 0 in both": streamed({"tool_calls": [call(0, "f", X, "a")]}, {"tool_calls": [call(0, "f", Y, "b")]}),
    "no ids": streamed({"tool_calls": [call(0, "f", X)]}, {"tool_calls": [call(1, "g", Y)]}, finish="tool_calls"),
    "no arguments": streamed({"tool_calls": [call(0, "f", "", "a")]}, finish="tool_calls"),
    "repeated at the end": streamed(
        {"tool_calls": [call(0, "f", '{"x"', "a")]},
        {"tool_calls": [call(0, "", ": 1}")]},
        {"tool_calls": [call(0, "f", X, "a")]},
        finish="tool_calls",
    ),
    "huge index": streamed({"tool_calls": [call(2**40, "f", X, "a")]}, finish="tool_calls"),
    "negative index": streamed({"tool_calls": [call(-1, "f", X, "a")]}, finish="tool_calls"),
    "empty call": streamed({"tool_calls": [{}]}, {"tool_calls": [call(0, "f", X, "a")]}, finish="tool_calls"),
    "legacy": streamed(
        {"function_call": {"name": "f", "arguments": '{"x"'}},
        {"function_call": {"arguments": ": 1}"}},
        finish="function_call",
    ),
    "halves": streamed({"content": "hi \ud83d"}, {"content": "\ude00"}),
    "lone half": streamed({"content": "hi \ud83d"}),
    "error null": streamed({"content": "hello"}).replace('"choices"', '"error": null, "choices"'),
    "empty data": "data:\n\n: comment\n\n" + streamed({"content": "hello"}),
    "huge count": streamed({"content": "hello"}, usage={"prompt_tokens": 10**20, "completion_tokens": 3}),
    "refusal": streamed({"content": None, "refusal": "I cannot"}),
    "deep": "data: " + "[" * 100_000 + "\n\n",
}
for _word in ("length", "max_tokens", "SAFETY", "content_filter", "error", "tool_calls", "eos", "never-heard-of"):
    ODD_STREAMS[f"ends with {_word}"] = streamed({"content": "half"}, finish=_word)
for _name, _error in {
    "context": {"message": "This model's maximum context length is 8192 tokens", "code": 400},
    "quota": {"message": "quota", "code": "insufficient_quota"},
    "key": {"message": "bad key", "code": 401},
    "rate": {"message": "Rate limit exceeded", "code": 429},
    "accident": {"message": "The server had an accident", "type": "server_error"},
}.items():
    ODD_STREAMS[f"error {_name}"] = f"data: {json.dumps({'error': _error})}\n\n"
    ODD_STREAMS[f"late error {_name}"] = streamed({"content": "half"}, finish=None).replace(
        "data: [DONE]", ODD_STREAMS[f"error {_name}"].strip()
    )

ODD_WHOLES = {
    "no ids": whole({"content": None, "tool_calls": [call(None, "f", X), call(None, "g", Y)]}, "tool_calls"),
    "no arguments": whole({"content": None, "tool_calls": [call(None, "f", "", "a")]}, "tool_calls"),
    "legacy": whole({"content": None, "function_call": {"name": "f", "arguments": X}}, "function_call"),
    "lone half": whole({"content": "hi \ud83d"}),
    "half in arguments": whole(
        {"content": None, "tool_calls": [call(None, "f", '{"x": "\ud83d"}', "a")]}, "tool_calls"
    ),
    "huge count": whole({"content": "hello"}, usage={"prompt_tokens": 10**20, "completion_tokens": 3}),
    "counts": whole({"content": "hello"}, usage={"prompt_tokens": 7, "completion_tokens": 3}),
    "counts of another name": whole({"content": "hello"}, usage={"input_tokens": 7, "output_tokens": 3}),
    "refusal": whole({"content": None, "refusal": "I cannot"}),
    "no choices": '{"choices": []}',
    "deep": '{"choices":' + "[" * 100_000,
    "trailing": whole({"content": "hello"}) + "garbage",
}
for _word in ("length", "max_tokens", "SAFETY", "content_filter", "error", "tool_calls", "eos", "never-heard-of"):
    ODD_WHOLES[f"ends with {_word}"] = whole({"content": "half"}, _word)
for _name, _event in list(ODD_STREAMS.items()):
    if _name.startswith("error ") and _name != "error null":
        ODD_WHOLES[_name] = _event.removeprefix("data: ").strip()


# litellm fails on the first, and drops the others.
LOST_IN_LITELLM = {(True, "empty call"), (True, "refusal"), (False, "counts of another name")}

# What counts, indexes and errors look like that come piece by piece. litellm reads them too.
_FINISHED = {"index": 0, "delta": {}, "finish_reason": "stop"}
MEANINGS: dict[str, dict[str, Any]] = {}
"""What answers mean that are odd in the same way for both, by the names of `Outcome`'s fields."""


def _streams(name: str, body: str, **meaning: Any) -> None:
    ODD_STREAMS[name] = body
    MEANINGS[name] = meaning


def _counts(*usages: Any) -> str:
    """Return a stream with counts in its events, the last of them beside the finish."""
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [[{"index": 0, "delta": {"content": "hello"}}] for _ in usages[:-1]] + [[_FINISHED]]
    events = [{**head, "choices": each, "usage": usage} for each, usage in zip(choices, usages, strict=True)]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


_BOTH = (("f", X), ("g", Y))
_COUNTED = (14, 9)
_streams(
    "counts that grow",
    _counts({"prompt_tokens": 14, "completion_tokens": 1}, {"prompt_tokens": 14, "completion_tokens": 9}),
    counted=_COUNTED,
)
_streams("counts in two events", _counts({"prompt_tokens": 14}, {"completion_tokens": 9}), counted=_COUNTED)
_streams(
    "nothing counted at the end",
    _counts({"prompt_tokens": 14, "completion_tokens": 9}, {"prompt_tokens": 0, "completion_tokens": 0}),
    counted=_COUNTED,
)
_streams("counts before null", _counts({"prompt_tokens": 14, "completion_tokens": 9}, None), counted=_COUNTED)
_streams(
    "arguments before the name",
    streamed({"tool_calls": [call(0, "", '{"x"', "a")]}, {"tool_calls": [call(0, "f", ": 1}")]}, finish="tool_calls"),
    calls=_BOTH[:1],
)
_streams(
    "a gap between indexes",
    streamed({"tool_calls": [call(0, "f", X, "a")]}, {"tool_calls": [call(7, "g", Y, "b")]}, finish="tool_calls"),
    calls=_BOTH,
)
_streams(
    "indexes that fall",
    streamed({"tool_calls": [call(1, "f", X, "a")]}, {"tool_calls": [call(0, "g", Y, "b")]}, finish="tool_calls"),
    calls=_BOTH,
)
_streams(
    "indexes as text",
    streamed(
        {"tool_calls": [{**call(None, "f", '{"x"', "a"), "index": "0"}]},
        {"tool_calls": [{**call(None, "g", '{"y"', "b"), "index": "1"}]},
        {"tool_calls": [{**call(None, "", ": 1}"), "index": "0"}, {**call(None, "", ": 2}"), "index": "1"}]},
        finish="tool_calls",
    ),
    calls=_BOTH,
)
_streams(
    "arguments as an object",
    streamed(
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
        finish="tool_calls",
    ),
    calls=_BOTH[:1],
)
_streams(
    "text after the finish",
    streamed({"content": "hel"}).replace("data: [DONE]\n\n", streamed({"content": "lo"}, finish=None)),
    text="hello",
)
_streams(
    "error in the choice",
    streamed(finish="error").replace('"finish_reason"', '"error": {"code": 429, "message": "slow"}, "finish_reason"'),
    failure="RESOURCE_EXHAUSTED UPSTREAM_RATE_LIMITED",
    requests=1,
)
_TOO_LARGE = {
    "message": "Request too large for gpt-4o in organization org on tokens per min (TPM): Limit 30000, Requested 45000",
    "code": "rate_limit_exceeded",
}
_streams(
    "more than a minute's tokens",
    f"data: {json.dumps({'error': _TOO_LARGE})}\n\n",
    failure="INVALID_ARGUMENT CONTEXT_WINDOW_EXCEEDED",
    requests=1,
)
ODD_WHOLES["throttled"] = json.dumps({"__type": "ThrottlingException", "message": "Too many requests"})
MEANINGS["throttled"] = {"failure": "RESOURCE_EXHAUSTED UPSTREAM_RATE_LIMITED"}
ODD_WHOLES["only details"] = json.dumps({"detail": "The model is not loaded"})
MEANINGS["only details"] = {"failure": "UNAVAILABLE UPSTREAM_UNAVAILABLE"}
ODD_WHOLES["error true"] = json.dumps({"error": True, "message": "The model is not loaded"})
MEANINGS["error true"] = {"failure": "UNAVAILABLE UPSTREAM_UNAVAILABLE"}

"""Ollama: its own interface, which streams lines of JSON, and the one it shares with OpenAI."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NoReturn

from tests.support.llm_replies import Completion, JsonObject, split_tokens
from tests.support.llm_script import Fault, Route
from tests.support.llm_wires.base import Asked, Endpoint, Event, Incoming, Refused, Wire, dumped
from tests.support.llm_wires.openai import OpenAIWire

_CREATED = "2026-01-01T00:00:00.000000Z"
_ROLES = {"system", "user", "assistant", "tool"}


class OllamaWire(Wire):
    name = "ollama"
    prefix = "/ollama"
    stream_type = "application/x-ndjson"

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("/api/chat", "chat"),
            Endpoint("/api/generate", "chat"),
            Endpoint("/api/embed", "embeddings"),
            Endpoint("/api/tags", "models", "GET"),
        ]

    def refused_key(self, key: str | None) -> Refused:
        return Refused(401, None, "unauthorized")

    def unknown_model(self, model: str) -> Refused:
        return Refused(404, None, f"model '{model}' not found")

    def streams(self, incoming: Incoming) -> bool:
        return incoming.fields.get("stream") is not False

    def read(self, incoming: Incoming, route: Route) -> Asked:
        body = incoming.body
        if not isinstance(body, dict):
            _refuse("invalid character in JSON")
        if route == "embeddings":
            given = body.get("input")
            texts = [given] if isinstance(given, str) else given
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                _refuse("invalid input type")
            size = body.get("dimensions")
            return Asked(texts=tuple(texts), dimensions=size if isinstance(size, int) else None)
        options = body.get("options") or {}
        if not isinstance(options, dict):
            _refuse("json: cannot unmarshal into Go struct field ChatRequest.options of type map[string]interface {}")
        generates = "prompt" in body
        chat: JsonObject = {
            "messages": [{"role": "user", "content": str(body["prompt"])}] if generates else _messages(body),
            # Less than one is no limit.
            "max_tokens": options.get("num_predict") if options.get("num_predict", 0) > 0 else None,
            "stop": options.get("stop"),
            "generates": generates,
        }
        if tools := _tools(body):
            chat["tools"] = tools
        wanted = body.get("format")
        if isinstance(wanted, dict):
            chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}
        elif wanted == "json":
            chat["response_format"] = {"type": "json_object"}
        elif wanted not in (None, ""):
            _refuse(f'invalid format: "{wanted}"; expected "json" or a JSON schema')
        return Asked(chat)

    def whole(self, asked: Asked, completion: Completion) -> JsonObject:
        said: JsonObject = {"content": completion.text}
        if completion.reasoning is not None:
            said["thinking"] = completion.reasoning
        if completion.tool_calls:
            said["tool_calls"] = _calls(completion)
        return self._line(asked, completion, said) | _ended(completion)

    def content(self, asked: Asked, completion: Completion) -> list[list[Event]]:
        said: list[JsonObject] = [
            {"content": "", "thinking": piece} for piece in split_tokens(completion.reasoning or "")
        ]
        said += [{"content": piece} for piece in completion.pieces]
        # Every call is whole, and has a line of its own.
        said += [{"content": "", "tool_calls": [call]} for call in _calls(completion)]
        return [[("", self._line(asked, completion, part) | {"done": False})] for part in said]

    def closing(self, asked: Asked, completion: Completion) -> list[Event]:
        return [("", self._line(asked, completion, {"content": ""}) | _ended(completion))]

    def embeddings(self, model: str, asked: Asked, vectors: list[list[float]], tokens: int) -> JsonObject:
        return {"model": model, "embeddings": vectors, "prompt_eval_count": tokens}

    def models(self, names: list[str]) -> JsonObject:
        return {"models": [{"name": name, "model": name} for name in names]}

    def error(self, fault: Fault, *, streamed: bool) -> Any:
        return {"error": fault.message}

    def keep_alive(self, end: str) -> str:
        return end

    def malformed(self, end: str) -> str:
        return f"{{this is no json{end}"

    def frame(self, event: Event, end: str) -> str:
        return dumped(event[1]) + end

    def _line(self, asked: Asked, completion: Completion, said: JsonObject) -> JsonObject:
        line: JsonObject = {"model": completion.model, "created_at": _CREATED}
        if asked.chat["generates"]:
            thought = {"thinking": said["thinking"]} if "thinking" in said else {}
            return line | {"response": said["content"]} | thought
        return line | {"message": {"role": "assistant", **said}}


class OllamaOpenAIWire(OpenAIWire):
    """Ollama's OpenAI-compatible address: whole calls, each with index 0."""

    name = "ollama_openai"
    prefix = "/ollama"

    def unknown_model(self, model: str) -> Refused:
        return Refused(404, None, f"model '{model}' not found")

    def read(self, incoming: Incoming, route: Route) -> Asked:
        asked = super().read(incoming, route)
        # It has no such choice, and takes no notice.
        return replace(asked, chat={name: value for name, value in asked.chat.items() if name != "tool_choice"})

    def whole(self, asked: Asked, completion: Completion) -> JsonObject:
        return _with_reasoning(completion.message_body(), "message")

    def content(self, asked: Asked, completion: Completion) -> list[list[Event]]:
        texts = [
            [("", _with_reasoning(chunk, "delta"))]
            for chunk in completion.content_chunks()
            if "tool_calls" not in chunk["choices"][0]["delta"]
        ]
        calls = [{"index": 0, **call} for call in completion.tool_calls]
        return texts + [
            [("", completion.chunk({"role": "assistant", "content": "", "tool_calls": [c]}))] for c in calls
        ]

    def error(self, fault: Fault, *, streamed: bool) -> Any:
        kind = {400: "invalid_request_error", 404: "not_found_error"}.get(fault.status, "api_error")
        return {"error": {"message": fault.message, "type": kind, "param": None, "code": fault.code}}

    def error_event(self, fault: Fault, completion: Completion | None) -> Event:
        # Its streams fail as those of its own interface do.
        return "", {"error": fault.message}


def _with_reasoning(document: JsonObject, where: str) -> JsonObject:
    message = document["choices"][0][where]
    if "reasoning_content" in message:
        message["reasoning"] = message.pop("reasoning_content")
    return document


def _refuse(message: str) -> NoReturn:
    raise Refused(400, None, message)


def _messages(body: JsonObject) -> list[JsonObject]:
    """Return the conversation in OpenAI's form."""
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        _refuse("messages must not be empty")
    messages: list[JsonObject] = []
    for message in given:
        if not isinstance(message, dict) or not isinstance(message.get("content", ""), str):
            _refuse("json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string")
        if message.get("role") not in _ROLES:
            _refuse(f"invalid role: {message.get('role')}")
        calls = message.get("tool_calls") or []
        for call in calls:
            if not isinstance(call, dict) or not isinstance((call.get("function") or {}).get("arguments"), dict):
                _refuse(
                    "json: cannot unmarshal string into Go struct field ChatRequest.messages.tool_calls.function."
                    "arguments of type api.ToolCallFunctionArguments"
                )
        made = [
            {
                "id": f"call_{number}",
                "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])},
            }
            for number, call in enumerate(calls)
        ]
        messages.append(
            {"role": message["role"], "content": message.get("content", "")} | ({"tool_calls": made} if made else {})
        )
    return messages


def _tools(body: JsonObject) -> list[JsonObject]:
    given = body.get("tools") or []
    if not isinstance(given, list) or not all(
        isinstance(tool, dict) and isinstance((tool.get("function") or {}).get("name"), str) for tool in given
    ):
        _refuse("json: cannot unmarshal into Go struct field ChatRequest.tools of type api.Tools")
    return given


def _calls(completion: Completion) -> list[JsonObject]:
    """Calls have no ids here, and arguments that are objects."""
    return [
        {"function": {"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in completion.tool_calls
    ]


def _ended(completion: Completion) -> JsonObject:
    # It says "stop" beside tool calls too.
    reason = {"tool_calls": "stop"}.get(completion.finish_reason, completion.finish_reason)
    end: JsonObject = {"done": True, "done_reason": reason, "total_duration": 1000, "load_duration": 10}
    if completion.usage is not None:
        end |= {
            "prompt_eval_count": completion.usage["prompt_tokens"],
            "eval_count": completion.usage["completion_tokens"],
        }
    return end

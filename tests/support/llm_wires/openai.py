"""OpenAI's chat completions and embeddings, and what others share of them."""

from __future__ import annotations

import base64
import re
import struct
from typing import Any, ClassVar

from pydantic import ValidationError

from tests.support.llm_replies import Completion, JsonObject
from tests.support.llm_requests import ChatBody, EmbeddingBody, Message
from tests.support.llm_script import Fault, Route
from tests.support.llm_wires.base import Asked, Endpoint, Event, Incoming, Refused, Wire

# Models that reason take another limit, and no sampling.
_REASONING_MODEL = re.compile(r"(?:o[1-9]|gpt-5)(?:\b|-)")
_OWN_MODEL = re.compile(r"(?:o[1-9]|gpt-|chatgpt-)")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PARAMETERS = frozenset(
    [
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
        "prompt_cache_retention",
    ]
)


class OpenAIWire(Wire):
    """OpenAI itself, and the base of those who speak as it does."""

    name = "openai"
    prefix = ""
    end = "[DONE]"
    chat_path: ClassVar[str] = "/v1/chat/completions"

    def endpoints(self) -> list[Endpoint]:
        base = self.chat_path.removesuffix("/chat/completions")
        return [
            Endpoint(self.chat_path, "chat"),
            Endpoint(f"{base}/embeddings", "embeddings"),
            Endpoint(f"{base}/models", "models", "GET"),
        ]

    def refused_key(self, key: str | None) -> Refused:
        return Refused(401, "invalid_api_key", "Incorrect API key provided.")

    def unknown_model(self, model: str) -> Refused:
        return Refused(404, "model_not_found", f"The model `{model}` does not exist")

    def read(self, incoming: Incoming, route: Route) -> Asked:
        body = incoming.body
        if not isinstance(body, dict):
            raise invalid("We could not parse the JSON body of your request.", "invalid_json")
        try:
            if route == "embeddings":
                EmbeddingBody.model_validate(body)
                return Asked(body, tuple(embedding_inputs(body["input"])), body.get("dimensions"))
            check_messages(ChatBody.model_validate(body).messages)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(step) for step in first["loc"])
            raise invalid(f"Invalid '{where}': {first['msg']}") from None
        self.check_chat(incoming, body)
        return Asked(chat=body)

    def check_chat(self, incoming: Incoming, body: JsonObject) -> None:
        """Refuse what this provider does not take of a valid body."""
        model = self.model(incoming)
        if _OWN_MODEL.match(model):
            for name in body:
                if name not in _PARAMETERS:
                    raise invalid(f"Unknown parameter: '{name}'.", "unknown_parameter")
            check_names(body)
        if _REASONING_MODEL.match(model):
            check_reasoning_model(body)

    def whole(self, asked: Asked, completion: Completion) -> JsonObject:
        return completion.message_body()

    def opening(self, asked: Asked, completion: Completion) -> list[Event]:
        return [("", completion.opening_chunk())]

    def content(self, asked: Asked, completion: Completion) -> list[list[Event]]:
        return [[("", chunk)] for chunk in completion.content_chunks()]

    def closing(self, asked: Asked, completion: Completion) -> list[Event]:
        return [("", chunk) for chunk in completion.closing_chunks(include_usage=wants_usage(asked.chat))]

    def embeddings(self, model: str, asked: Asked, vectors: list[list[float]], tokens: int) -> JsonObject:
        as_base64 = asked.chat.get("encoding_format") == "base64"
        return {
            "object": "list",
            "model": model,
            "data": [
                {"object": "embedding", "index": index, "embedding": _as_base64(vector) if as_base64 else vector}
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def error(self, fault: Fault, *, streamed: bool) -> Any:
        code = fault.code or {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(fault.status, "fault_on_demand")
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            fault.status, "invalid_request_error" if fault.status < 500 else "server_error"
        )
        return {"error": {"message": fault.message, "type": kind, "param": None, "code": code}}


def wants_usage(chat: JsonObject) -> bool:
    return bool((chat.get("stream_options") or {}).get("include_usage"))


def invalid(message: str, code: str = "invalid_value") -> Refused:
    return Refused(400, code, message)


def check_messages(messages: list[Message]) -> None:
    """The order real upstreams insist on: every tool result answers a call, every call is answered."""
    awaited: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == "tool":
            if message.tool_call_id not in awaited:
                raise invalid(f"messages[{index}]: a 'tool' message must answer a preceding 'tool_calls' message")
            awaited.discard(message.tool_call_id)
            continue
        if awaited:
            raise invalid(f"messages[{index}]: tool calls without an answer: {sorted(awaited)}")
        calls = message.tool_calls or []
        if message.content is None and not calls:
            raise invalid(f"messages[{index}]: 'content' is required")
        awaited = {call.id for call in calls}
    if awaited:
        raise invalid(f"tool calls without an answer: {sorted(awaited)}")


def check_names(body: JsonObject) -> None:
    names = [("tools", tool["function"]["name"]) for tool in body.get("tools") or []]
    made = (body.get("response_format") or {}).get("json_schema")
    if made:
        names.append(("response_format.json_schema.name", made["name"]))
    for where, name in names:
        if not _NAME.fullmatch(name):
            raise invalid(f"Invalid '{where}': string does not match pattern. Expected '^[a-zA-Z0-9_-]+$'.")
    if body.get("parallel_tool_calls") is not None and not body.get("tools"):
        raise invalid("Invalid value for 'parallel_tool_calls': only allowed when 'tools' are specified.")
    if len(body.get("stop") or []) > 4 and isinstance(body["stop"], list):
        raise invalid("Invalid 'stop': array too long. Expected an array with maximum length 4.")


def check_reasoning_model(body: JsonObject) -> None:
    if body.get("max_tokens") is not None:
        raise invalid(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead.",
            "unsupported_parameter",
        )
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if value is not None and value != 1:
            raise invalid(
                f"Unsupported value: '{name}' does not support {value} with this model. Only the default (1) value "
                "is supported.",
                "unsupported_value",
            )
    if body.get("stop") is not None:
        raise invalid("Unsupported parameter: 'stop' is not supported with this model.", "unsupported_parameter")


def embedding_inputs(given: Any) -> list[str]:
    """Inputs as texts; token arrays become their decimal words."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(item, int) for item in given):
        return [" ".join(map(str, given))]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in given]


def _as_base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

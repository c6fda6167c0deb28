"""vLLM's server: OpenAI's interface with ids that are null in streams, and errors in an older form."""

from __future__ import annotations

from typing import Any

from tests.support.llm_replies import Completion, JsonObject
from tests.support.llm_script import Fault
from tests.support.llm_wires.base import Asked, Event, Refused
from tests.support.llm_wires.openai import OpenAIWire

_TYPES = {400: "BadRequestError", 401: "Unauthorized", 404: "NotFoundError", 429: "TooManyRequests"}


class VllmWire(OpenAIWire):
    name = "vllm"
    prefix = "/vllm"

    def refused_key(self, key: str | None) -> Refused:
        return Refused(401, None, "Unauthorized")

    def unknown_model(self, model: str) -> Refused:
        return Refused(404, None, f"The model `{model}` does not exist.")

    def whole(self, asked: Asked, completion: Completion) -> JsonObject:
        body = completion.message_body()
        choice = body["choices"][0] | {"stop_reason": None}
        choice["message"] = {"refusal": None, "tool_calls": [], "reasoning_content": None} | choice["message"]
        return body | {"choices": [choice], "prompt_logprobs": None}

    def content(self, asked: Asked, completion: Completion) -> list[list[Event]]:
        chunks = completion.content_chunks()
        for chunk in chunks:
            chunk["usage"] = None
            for call in chunk["choices"][0]["delta"].get("tool_calls") or []:
                # A call whose id nobody scripted has none.
                number = call["index"]
                scripted = completion.reply.tool_calls
                call["id"] = scripted[number].id if "id" in call and number < len(scripted) else None
        return [[("", chunk)] for chunk in chunks]

    def error(self, fault: Fault, *, streamed: bool) -> Any:
        kind = fault.code or _TYPES.get(fault.status, "InternalServerError")
        return {"object": "error", "message": fault.message, "type": kind, "param": None, "code": fault.status}

    def error_event(self, fault: Fault, completion: Completion | None) -> Event:
        # An error in a stream is the same document, with the newer form around it in newer releases.
        return "", self.error(fault, streamed=True)

"""OpenRouter: OpenAI's interface with comments while a provider is awaited, and errors in successes."""

from __future__ import annotations

from typing import Any

from tests.support.llm_replies import Completion, JsonObject
from tests.support.llm_script import Fault
from tests.support.llm_wires.base import Asked, Event, Refused
from tests.support.llm_wires.openai import OpenAIWire

_NATIVE = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}


class OpenRouterWire(OpenAIWire):
    name = "openrouter"
    prefix = "/openrouter"
    chat_path = "/api/v1/chat/completions"
    needs_key = True

    def refused_key(self, key: str | None) -> Refused:
        return Refused(401, None, "No auth credentials found" if not key else "User not found.")

    def unknown_model(self, model: str) -> Refused:
        return Refused(400, None, f"{model} is not a valid model ID")

    def whole(self, asked: Asked, completion: Completion) -> JsonObject:
        body = completion.message_body()
        choice = body["choices"][0]
        choice["native_finish_reason"] = _NATIVE.get(completion.finish_reason, completion.finish_reason)
        choice["message"] = {"refusal": None} | self._reasoning(choice["message"], completion)
        return body | {"provider": "Emulated"}

    def opening(self, asked: Asked, completion: Completion) -> list[Event]:
        return []

    def content(self, asked: Asked, completion: Completion) -> list[list[Event]]:
        chunks = completion.content_chunks()
        for chunk in chunks:
            choice = chunk["choices"][0]
            chunk["provider"] = "Emulated"
            choice["delta"] = {"role": "assistant", "content": ""} | self._reasoning(choice["delta"], completion)
        return [[("", chunk)] for chunk in chunks]

    def closing(self, asked: Asked, completion: Completion) -> list[Event]:
        events = super().closing(asked, completion)
        for _, chunk in events:
            for choice in chunk["choices"]:
                choice["native_finish_reason"] = _NATIVE.get(completion.finish_reason, completion.finish_reason)
            if not chunk["choices"]:
                # Usage comes beside an empty choice here.
                chunk["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
        return events

    def error(self, fault: Fault, *, streamed: bool) -> Any:
        code = int(fault.code) if fault.code and fault.code.isdecimal() else fault.status
        error: JsonObject = {"message": "Provider returned error", "code": code}
        error["metadata"] = {"raw": fault.message, "provider_name": "Emulated"}
        return {"error": error, "user_id": "user_emulated"}

    def error_event(self, fault: Fault, completion: Completion | None) -> Event:
        if completion is None:
            return "", self.error(fault, streamed=True)
        chunk = completion.chunk({"role": "assistant", "content": ""}, finish_reason="error")
        chunk["choices"][0]["native_finish_reason"] = "error"
        return "", chunk | {"provider": "Emulated", "error": {"code": fault.status, "message": fault.message}}

    def keep_alive(self, end: str) -> str:
        return f": OPENROUTER PROCESSING{end}{end}"

    @staticmethod
    def _reasoning(message: JsonObject, completion: Completion) -> JsonObject:
        said = message.pop("reasoning_content", None)
        if said is None:
            return message
        detail: JsonObject = {"type": "reasoning.text", "text": said, "format": "unknown", "index": 0}
        if completion.reply.signature is not None:
            detail["signature"] = completion.reply.signature
        return message | {"reasoning": said, "reasoning_details": [detail]}

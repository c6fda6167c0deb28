"""Databricks model serving: OpenAI's interface below another path, with errors of its own."""

from __future__ import annotations

from typing import Any

from tests.support.llm_replies import Completion
from tests.support.llm_script import Fault, Route
from tests.support.llm_wires.base import Asked, Endpoint, Event, Incoming
from tests.support.llm_wires.openai import OpenAIWire


class DatabricksWire(OpenAIWire):
    name = "databricks"

    def endpoints(self) -> list[Endpoint]:
        base = "/serving-endpoints"
        return [
            Endpoint(f"{base}/chat/completions", "chat"),
            Endpoint(f"{base}/embeddings", "embeddings"),
            Endpoint(f"{base}/{{name}}/invocations", None),
        ]

    def route_of(self, incoming: Incoming) -> Route:
        if incoming.endpoint.route is not None:
            return incoming.endpoint.route
        return "embeddings" if "input" in incoming.fields else "chat"

    def model(self, incoming: Incoming) -> str:
        return incoming.path.get("name") or super().model(incoming)

    def closing(self, asked: Asked, completion: Completion) -> list[Event]:
        # Usage comes unasked, beside the finish.
        ((name, last), *_) = super().closing(asked, completion)
        return [(name, last if completion.usage is None else last | {"usage": completion.usage})]

    def error(self, fault: Fault, *, streamed: bool) -> Any:
        code = fault.code or {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(fault.status, "fault_on_demand")
        return {"error_code": code.upper(), "message": fault.message}

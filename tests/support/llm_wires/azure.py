"""OpenAI's models in Azure: the deployment in the path, a version in the query, a header of its own for the key."""

from __future__ import annotations

from typing import Any

from tests.support.llm_replies import Completion, JsonObject
from tests.support.llm_script import Fault, Route
from tests.support.llm_wires.base import Asked, Endpoint, Event, Incoming, Refused
from tests.support.llm_wires.openai import OpenAIWire

_FIRST_WITH_STREAM_OPTIONS = "2024-09-01"
_SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
_PROMPT_RESULTS = [{"prompt_index": 0, "content_filter_results": _SAFE}]
_FILTER_MESSAGE = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify "
    "your prompt and retry."
)


class AzureWire(OpenAIWire):
    name = "azure"
    prefix = "/azure"
    needs_key = True

    def endpoints(self) -> list[Endpoint]:
        classic, newer = "/openai/deployments/{name}", "/openai/v1"
        chats = [Endpoint(f"{base}/chat/completions", "chat") for base in (classic, newer)]
        return chats + [Endpoint(f"{base}/embeddings", "embeddings") for base in (classic, newer)]

    def key(self, incoming: Incoming) -> str | None:
        return incoming.headers.get("api-key") or super().key(incoming)

    def refused_key(self, key: str | None) -> Refused:
        return Refused(
            401,
            None,
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for "
            "an active subscription and use a correct regional API endpoint for your resource.",
        )

    def model(self, incoming: Incoming) -> str:
        return incoming.path.get("name") or super().model(incoming)

    def unknown_model(self, model: str) -> Refused:
        return Refused(
            404,
            "DeploymentNotFound",
            "The API deployment for this resource does not exist. If you created the deployment within the last 5 "
            "minutes, please wait a moment and try again.",
        )

    def read(self, incoming: Incoming, route: Route) -> Asked:
        classic = "name" in incoming.path
        version = incoming.query.get("api-version", "")
        if classic and not version:
            raise Refused(404, None, "Resource not found")
        if classic and "stream_options" in incoming.fields and version < _FIRST_WITH_STREAM_OPTIONS:
            raise Refused(400, None, "Unrecognized request argument supplied: stream_options")
        return super().read(incoming, route)

    def whole(self, asked: Asked, completion: Completion) -> JsonObject:
        body = completion.message_body()
        body["choices"][0]["content_filter_results"] = _SAFE
        return body | {"prompt_filter_results": _PROMPT_RESULTS}

    def opening(self, asked: Asked, completion: Completion) -> list[Event]:
        # About the prompt, before there is an answer: nothing in it is set but the results.
        about: JsonObject = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
        return [("", about | {"prompt_filter_results": _PROMPT_RESULTS}), *super().opening(asked, completion)]

    def error(self, fault: Fault, *, streamed: bool) -> Any:
        if fault.code == "content_filter":
            inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": _SAFE}
            message = _FILTER_MESSAGE if fault.message == "fault on demand" else fault.message
            error = {"message": message, "type": None, "param": "prompt", "code": fault.code, "status": fault.status}
            return {"error": error | {"innererror": inner}}
        return {"error": {"code": fault.code or str(fault.status), "message": fault.message}}

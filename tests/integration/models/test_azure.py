"""OpenAI's models in Azure: the deployment's address, the `api-key` header, and the errors of its gateway."""

import ipaddress
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.auth.v1 import secret_pb2, secret_service_pb2_grpc
from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import model_pb2
from tests.integration.models.support import Installation, ask, ask_stream, refusal, serve_models
from tests.support.harness import ALICE
from tests.support.http_emulator import HttpEmulator

KEY = "azure-marked-51e0c9d7"
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
_ANSWER = {
    "choices": [
        {
            "message": {"role": "assistant", "content": "Bonjour"},
            "finish_reason": "stop",
            "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}},
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}


@dataclass
class Answer:
    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class AzureResource(HttpEmulator):
    """Answers every address with what it was told to, in order, and notes what came."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.answers: list[Answer] = []

    def install(self, app: web.Application) -> None:
        app.router.add_post("/{path:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append((request.path_qs, {k.lower(): v for k, v in request.headers.items()}, body))
        answer = self.answers.pop(0)
        if isinstance(answer.body, str):
            return web.Response(text=answer.body, content_type="text/event-stream")
        return web.json_response(answer.body, status=answer.status, headers=answer.headers)


@pytest.fixture
async def azure() -> AsyncIterator[AzureResource]:
    async with AzureResource() as resource:
        yield resource


@pytest.fixture
async def installation(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, azure: AzureResource
) -> AsyncIterator[Installation]:
    async with serve_models(
        tmp_path, monkeypatch, database_url=database_url, egress_allowed_networks=LOOPBACK
    ) as served:
        secrets = secret_service_pb2_grpc.SecretServiceStub(served.harness.channel(ALICE))
        await secrets.PutSecret(secret_pb2.PutSecretRequest(name="llm/azure", value=KEY, allowed_origins=[azure.url]))
        for name, can in (("chat", {"chat": True}), ("embed", {"embeddings": True})):
            model = model_pb2.Model(
                name=f"azure/{name}",
                provider=model_pb2.PROVIDER_AZURE,
                upstream_model=f"my-{name}",
                base_url=azure.url,
                capabilities=model_pb2.Capabilities(**can),
                provider_options={"api_version": "2025-04-01-preview"},
            )
            await served.models().CreateModel(model_pb2.CreateModelRequest(model=model))
        yield served


async def test_a_deployment_is_called_at_its_classic_address_with_the_api_key_header(
    installation: Installation, azure: AzureResource
) -> None:
    azure.answers.append(Answer(_ANSWER))
    answer = await installation.inference().Complete(ask("azure/chat"))
    assert (answer.text, answer.usage.input_tokens) == ("Bonjour", 5)
    ((path, headers, _),) = azure.requests
    assert path == "/openai/deployments/my-chat/chat/completions?api-version=2025-04-01-preview"
    assert headers["api-key"] == KEY
    assert "authorization" not in headers


async def test_streams_and_embeddings_go_the_same_way(installation: Installation, azure: AzureResource) -> None:
    # Azure begins its streams with a chunk about the prompt that has no choices.
    events: list[dict[str, Any]] = [
        {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
        {"choices": [{"delta": {"content": "Bon"}}]},
        {"choices": [{"delta": {"content": "jour"}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ]
    azure.answers.append(Answer("".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"))
    pieces = [piece async for piece in installation.inference().StreamComplete(ask_stream("azure/chat"))]
    assert "".join(piece.text for piece in pieces) == "Bonjour"
    azure.answers.append(Answer({"data": [{"index": 0, "embedding": [3.0, 4.0]}], "usage": {"prompt_tokens": 1}}))
    response = await installation.inference().Embed(pb.EmbedRequest(model="azure/embed", texts=["a"]))
    assert list(response.embeddings[0].values) == pytest.approx([0.6, 0.8])
    assert azure.requests[-1][0].startswith("/openai/deployments/my-embed/embeddings?")
    assert azure.requests[-1][1]["api-key"] == KEY


async def test_the_newer_address_takes_the_deployment_in_the_body(
    installation: Installation, azure: AzureResource
) -> None:
    change = model_pb2.UpdateModelRequest(
        name="azure/chat",
        model=model_pb2.Model(base_url=f"{azure.url}/openai/v1/"),
        update_mask=FieldMask(paths=["base_url", "provider_options"]),
    )
    changed = await installation.models().UpdateModel(change)
    assert not changed.model.provider_options
    azure.answers.append(Answer(_ANSWER))
    await installation.inference().Complete(ask("azure/chat"))
    ((path, headers, body),) = azure.requests
    assert (path, headers["api-key"], body["model"]) == ("/openai/v1/chat/completions", KEY, "my-chat")


_FILTERED = {
    "error": {
        "message": "The response was filtered due to the prompt triggering our content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
        },
    }
}
_NO_KEY = {
    "error": {
        "code": "401",
        "message": "Access denied due to invalid subscription key or wrong API endpoint.",
    }
}
_NO_DEPLOYMENT = {
    "error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}
}


@pytest.mark.parametrize(
    ("answer", "code", "reason", "words"),
    [
        (Answer(_FILTERED, 400), grpc.StatusCode.INVALID_ARGUMENT, "CONTENT_FILTERED", "content management policy"),
        (
            Answer(_NO_KEY, 401),
            grpc.StatusCode.FAILED_PRECONDITION,
            "UPSTREAM_CREDENTIAL_REJECTED",
            "invalid subscription key",
        ),
        (Answer(_NO_DEPLOYMENT, 404), grpc.StatusCode.FAILED_PRECONDITION, "UPSTREAM_REJECTED", "does not exist"),
    ],
)
async def test_errors_of_azure_keep_their_meaning(
    installation: Installation, azure: AzureResource, answer: Answer, code: grpc.StatusCode, reason: str, words: str
) -> None:
    azure.answers.extend([answer, answer])
    failure = await refusal(installation.inference().Complete(ask("azure/chat")))
    assert (failure.code, failure.reason) == (code, reason)
    assert words in failure.message
    assert KEY not in failure.raw


async def test_a_pause_in_milliseconds_is_kept(installation: Installation, azure: AzureResource) -> None:
    limited = {"error": {"code": "429", "message": "Requests have exceeded the token rate limit."}}
    azure.answers.append(Answer(limited, 429, {"retry-after-ms": "90000", "retry-after": "90"}))
    failure = await refusal(installation.inference().Complete(ask("azure/chat")))
    assert (failure.reason, failure.retry_after) == ("UPSTREAM_RATE_LIMITED", 90.0)
    assert len(azure.requests) == 1


async def test_an_unknown_option_is_refused_with_its_path(installation: Installation) -> None:
    model = model_pb2.Model(
        name="azure/other",
        provider=model_pb2.PROVIDER_AZURE,
        base_url="https://res.example.com",
        capabilities=model_pb2.Capabilities(chat=True),
        provider_options={"api_version": "x/../y", "azure_ad_token": "oidc/file/secret"},
    )
    failure = await refusal(installation.models().CreateModel(model_pb2.CreateModelRequest(model=model)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert sorted(failure.fields) == [
        "model.provider_options.api_version",
        "model.provider_options.azure_ad_token",
    ]

"""Providers on their own wires through litellm: credentials in each form, options, errors, nothing ambient."""

import functools
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from coxswain.auth.v1 import secret_pb2, secret_service_pb2_grpc
from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import model_pb2
from services.common.grpc.json_values import to_struct
from tests.integration.models.support import (
    Installation,
    ask,
    ask_stream,
    read_refusal,
    refusal,
    serve_models,
    text,
)
from tests.integration.models.test_litellm_processes import helpers
from tests.support.bedrock_emulator import BedrockEmulator, Fault, Thought, ToolUse
from tests.support.harness import ALICE, BOB
from tests.support.http_emulator import HttpEmulator
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Fault as LlmFault
from tests.support.llm_script import Reply
from tests.support.media_samples import PDF, PNG
from tests.support.private_files import environment_of

# One helper for the whole file.
# A helper starts at low priority: on a busy machine the first call waits for minutes.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
CAROL = "dev:carol:finance=admin"
AWS_SECRET = "aws-marked-7d2c41f09e"
AWS_KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": AWS_SECRET}
ANTHROPIC_KEY = "sk-ant-marked-19ab33"
# What an operator's machine may hold; no group may call anything with it.
AMBIENT = {
    "AWS_ACCESS_KEY_ID": "AKIAAMBIENT",
    "AWS_SECRET_ACCESS_KEY": "ambient-secret",
    "AWS_BEARER_TOKEN_BEDROCK": "ambient-bearer",
    "AWS_PROFILE": "ambient",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/ambient",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/ambient/token",
    "GOOGLE_APPLICATION_CREDENTIALS": "/ambient/key.json",
    "VERTEXAI_PROJECT": "ambient-project",
    "ANTHROPIC_API_KEY": "ambient-anthropic",
    "HTTPS_PROXY": "http://127.0.0.1:1",
}


class OllamaEmulator(HttpEmulator):
    """Ollama's own interface: lines of JSON, the last of which may be an error."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def install(self, app: web.Application) -> None:
        app.router.add_post("/api/chat", self._chat)

    async def _chat(self, _: web.Request) -> web.Response:
        text = "".join(f"{json.dumps(line)}\n" for line in self.lines)
        return web.Response(text=text, content_type="application/x-ndjson")


class VertexEmulator(HttpEmulator):
    """Google's address of tokens, and Gemini's wire as Vertex AI has it."""

    def __init__(self) -> None:
        super().__init__()
        self.grants: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.parts: list[dict[str, Any]] = [{"text": "Bonjour"}]
        self.fault: tuple[int, dict[str, Any]] | None = None
        self.finish = "STOP"
        self.broken: dict[str, Any] | None = None
        """What a stream says after its text, in the place of its end."""

    def install(self, app: web.Application) -> None:
        app.router.add_post("/token", self._token)
        app.router.add_post("/{path:.*}", self._generate)

    async def _token(self, request: web.Request) -> web.Response:
        self.grants.append(str((await request.post())["assertion"]))
        return web.json_response({"access_token": "ya29.of-the-account", "expires_in": 3600, "token_type": "Bearer"})

    async def _generate(self, request: web.Request) -> web.Response:
        self.calls.append((request.path, request.headers.get("Authorization", "")))
        self.bodies.append(await request.json())
        if self.fault is not None:
            status, document = self.fault
            return web.json_response(document, status=status)
        if request.path.endswith(":predict"):
            values = [[float(len(each["content"])), 1.0] for each in self.bodies[-1]["instances"]]
            statistics = {"token_count": 2, "truncated": False}
            return web.json_response(
                {"predictions": [{"embeddings": {"values": each, "statistics": statistics}} for each in values]}
            )
        content = {"role": "model", "parts": self.parts}
        usage = {"promptTokenCount": 3, "candidatesTokenCount": 1, "totalTokenCount": 4}
        candidate: dict[str, Any] = {"content": content, "finishReason": self.finish, "index": 0}
        answer = {"candidates": [candidate], "usageMetadata": usage}
        if "streamGenerateContent" in request.path:
            events = [answer]
            if self.broken is not None:
                del candidate["finishReason"]
                events.append(self.broken)
            said = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
            return web.Response(text=said, content_type="text/event-stream")
        return web.json_response(answer)


@dataclass
class Served:
    installation: Installation
    bedrock: BedrockEmulator
    vertex: VertexEmulator
    ollama: OllamaEmulator
    llm: LlmEmulator


async def add(installation: Installation, upstream: str, bearer: str = ALICE, **options: str) -> None:
    model = model_pb2.Model(
        name=upstream,
        provider=model_pb2.PROVIDER_LITELLM,
        upstream_model=upstream,
        capabilities=model_pb2.Capabilities(chat=True, tools=True),
        provider_options=options,
    )
    await installation.models(bearer).CreateModel(model_pb2.CreateModelRequest(model=model))


async def store(installation: Installation, provider: str, value: str, origin: str, bearer: str = ALICE) -> None:
    secrets = secret_service_pb2_grpc.SecretServiceStub(installation.harness.channel(bearer))
    request = secret_pb2.PutSecretRequest(name=f"llm/{provider}", value=value, allowed_origins=[origin])
    await secrets.PutSecret(request)


@functools.cache
def service_account() -> dict[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "type": "service_account",
        "project_id": "project-of-the-account",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "me@project-of-the-account.iam.gserviceaccount.com",
        "client_id": "1",
        # A group's own idea of where its key is exchanged: Google's address is used all the same.
        "token_uri": "https://example.com/token",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    home = tmp_path_factory.mktemp("home")
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text("[default]\naws_access_key_id=AKIAFILE\naws_secret_access_key=file\n")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AMBIENT.items():
            patch.setenv(name, value)
        patch.setenv("HOME", str(home))
        async with (
            BedrockEmulator() as bedrock,
            VertexEmulator() as vertex,
            OllamaEmulator() as ollama,
            LlmEmulator() as llm,
        ):
            patch.setattr("services.models.providers.litellm.arguments._GOOGLE_TOKEN_ADDRESS", f"{vertex.url}/token")
            addresses = {
                "bedrock": bedrock.url,
                "vertex_ai": vertex.url,
                "ollama_chat": ollama.url,
                "anthropic": llm.url_of("anthropic"),
                "gemini": f"{llm.url_of('gemini')}/v1beta",
            }
            async with serve_models(
                tmp_path_factory.mktemp("providers"),
                patch,
                key="",
                seed=[],
                litellm_base_urls=addresses,
                litellm_providers=["anthropic", "bedrock", "gemini", "ollama_chat", "vertex_ai"],
                keyless_origins=[ollama.url, bedrock.url],
                breaker_outages=1000,
            ) as installation:
                await add(installation, "bedrock/eu.amazon.nova-pro-v1:0", region="eu-central-1")
                await add(installation, "vertex_ai/gemini-2.5-flash", project="my-project", location="europe-west4")
                await add(installation, "ollama_chat/m")
                await add(installation, "anthropic/claude-sonnet-4-5")
                await add(installation, "gemini/gemini-2.5-flash")
                await store(installation, "anthropic", ANTHROPIC_KEY, llm.url)
                await store(installation, "gemini", "gemini-key", llm.url)
                yield Served(installation, bedrock, vertex, ollama, llm)


@pytest.fixture(autouse=True)
def _as_it_was(served: Served) -> None:
    served.bedrock.calls.clear()
    served.bedrock.fault = None
    served.bedrock.tools = []
    served.bedrock.text = "Bonjour tout le monde"
    served.bedrock.thought = None
    served.bedrock.stop_reason = "end_turn"
    served.vertex.calls.clear()
    served.vertex.bodies.clear()
    served.vertex.parts = [{"text": "Bonjour"}]
    served.vertex.fault = None
    served.vertex.finish = "STOP"
    served.vertex.broken = None
    served.llm.clear_rules()
    served.llm.clear_log()


async def read(served: Served, model: str) -> list[pb.StreamCompleteResponse]:
    return [piece async for piece in served.installation.inference().StreamComplete(ask_stream(model))]


def text_of(pieces: list[pb.StreamCompleteResponse]) -> str:
    return "".join(piece.text for piece in pieces)


BEDROCK = "bedrock/eu.amazon.nova-pro-v1:0"
CLAUDE = "bedrock/eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
VERTEX = "vertex_ai/gemini-2.5-flash"
TOO_LONG = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
TOOL = pb.ToolDefinition(
    name="weather",
    description="Tells the weather",
    parameters_schema=to_struct({"type": "object", "properties": {"city": {"type": "string"}}}),
)
NOW = pb.ToolDefinition(name="now", description="Tells the time", parameters_schema=to_struct({"type": "object"}))


async def test_bedrock_is_signed_with_a_groups_pair_of_keys_in_its_models_region(served: Served) -> None:
    await store(served.installation, "bedrock", json.dumps(AWS_KEYS), served.bedrock.url)
    answer = await served.installation.inference().Complete(ask(BEDROCK))
    assert (answer.text, answer.usage.input_tokens) == ("Bonjour tout le monde", 12)
    pieces = await read(served, BEDROCK)
    assert text_of(pieces).split() == ["Bonjour", "tout", "le", "monde"]
    assert [call.stream for call in served.bedrock.calls] == [False, True]
    for call in served.bedrock.calls:
        assert call.model == "eu.amazon.nova-pro-v1:0"
        scope = call.headers["authorization"].split("Credential=")[1].split(",")[0].split("/")
        assert (scope[0], scope[2], scope[3]) == ("AKIAIOSFODNN7EXAMPLE", "eu-central-1", "bedrock")


async def test_bedrock_takes_an_api_key_as_bearer(served: Served) -> None:
    await add(served.installation, BEDROCK, CAROL, region="eu-central-1")
    await store(served.installation, "bedrock", "bedrock-api-key-1", served.bedrock.url, CAROL)
    await served.installation.inference(CAROL).Complete(ask(BEDROCK))
    assert served.bedrock.calls[-1].headers["authorization"] == "Bearer bedrock-api-key-1"


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        (Fault("AccessDeniedException", "You don't have access to the model", 403), "UPSTREAM_CREDENTIAL_REJECTED", 1),
        (Fault("ValidationException", "The provided model identifier is invalid.", 400), "UPSTREAM_REJECTED", 1),
        (Fault("ValidationException", "Input is too long for requested model.", 400), "CONTEXT_WINDOW_EXCEEDED", 1),
        (Fault("ThrottlingException", "Too many requests, slow down", 429), "UPSTREAM_RATE_LIMITED", 1),
        (Fault("ServiceUnavailableException", "Bedrock is unable to process", 503), "UPSTREAM_UNAVAILABLE", 0),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_of_bedrock_keep_their_meaning_and_words(
    served: Served, fault: Fault, reason: str, words: int, stream: bool
) -> None:
    await store(served.installation, "bedrock", json.dumps(AWS_KEYS), served.bedrock.url)
    served.bedrock.fault = fault
    call = read(served, BEDROCK) if stream else served.installation.inference().Complete(ask(BEDROCK))
    failure = await refusal(call)
    assert failure.reason == reason
    assert not words or f'"{fault.message}"' in failure.message
    assert AWS_SECRET not in failure.raw
    assert "litellm" not in failure.message


async def test_an_exception_in_the_middle_of_a_stream_of_bedrock_is_an_outage(served: Served) -> None:
    await store(served.installation, "bedrock", json.dumps(AWS_KEYS), served.bedrock.url)
    served.bedrock.fault = Fault("modelStreamErrorException", "the model broke off")
    failure = await refusal(read(served, BEDROCK))
    assert failure.code is grpc.StatusCode.UNAVAILABLE


async def turn(served: Served, model: str, request: pb.CompleteRequest, *, stream: bool) -> pb.Message:
    """Return the answer as the message that goes back with its results."""
    inference = served.installation.inference()
    if not stream:
        answer = await inference.Complete(request)
        assert answer.finish_reason == pb.FINISH_REASON_TOOL_CALLS
        return pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=answer.tool_calls)
    calls: dict[int, pb.ToolCall] = {}
    async for piece in inference.StreamComplete(pb.StreamCompleteRequest(completion=request.completion)):
        if piece.WhichOneof("delta") == "tool_call":
            delta = piece.tool_call
            call = calls.setdefault(delta.index, pb.ToolCall())
            call.id += delta.id
            call.name += delta.name
            call.arguments_json += delta.arguments_json
            call.provider_state += delta.provider_state
    assert piece.finish.reason == pb.FINISH_REASON_TOOL_CALLS
    return pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=[calls[index] for index in sorted(calls)])


def results_of(said: pb.Message) -> list[pb.Message]:
    return [
        pb.Message(role=pb.MESSAGE_ROLE_TOOL, tool_call_id=call.id, content=[pb.ContentPart(text=f"of {call.name}")])
        for call in said.tool_calls
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_bedrock_calls_tools_and_gets_their_results(served: Served, stream: bool) -> None:
    await store(served.installation, "bedrock", json.dumps(AWS_KEYS), served.bedrock.url)
    served.bedrock.tools = [ToolUse("tooluse_1", "weather", {"city": "Lyon"}), ToolUse("tooluse_2", "now", {})]
    tools = [TOOL, NOW]
    said = await turn(served, BEDROCK, ask(BEDROCK, tools=tools), stream=stream)
    assert [(call.id, call.name, json.loads(call.arguments_json)) for call in said.tool_calls] == [
        ("tooluse_1", "weather", {"city": "Lyon"}),
        ("tooluse_2", "now", {}),
    ]
    served.bedrock.tools = []
    await served.installation.inference().Complete(ask(BEDROCK, text("go"), said, *results_of(said), tools=tools))
    sent = served.bedrock.calls[-1].body
    assert [tool["toolSpec"]["name"] for tool in sent["toolConfig"]["tools"]] == ["weather", "now"]
    returned = [part["toolResult"]["toolUseId"] for part in sent["messages"][-1]["content"] if "toolResult" in part]
    assert returned == ["tooluse_1", "tooluse_2"]


@pytest.mark.parametrize(
    ("word", "finish"),
    [("max_tokens", "LENGTH"), ("stop_sequence", "STOP"), ("guardrail_intervened", "CONTENT_FILTER")],
)
async def test_ends_of_bedrock_keep_their_meaning(served: Served, word: str, finish: str) -> None:
    await store(served.installation, "bedrock", json.dumps(AWS_KEYS), served.bedrock.url)
    served.bedrock.stop_reason = word
    answer = await served.installation.inference().Complete(ask(BEDROCK))
    assert pb.FinishReason.Name(answer.finish_reason) == f"FINISH_REASON_{finish}"
    pieces = await read(served, BEDROCK)
    assert pb.FinishReason.Name(pieces[-1].finish.reason) == f"FINISH_REASON_{finish}"


@pytest.mark.parametrize("stream", [False, True])
async def test_vertex_calls_tools_and_gets_their_signatures_back(served: Served, stream: bool) -> None:
    await store(served.installation, "vertex_ai", json.dumps(service_account()), served.vertex.url)
    call = {"functionCall": {"name": "weather", "args": {"city": "Lyon"}}, "thoughtSignature": "c2lnbmVk"}
    served.vertex.parts = [call]
    said = await turn(served, VERTEX, ask(VERTEX, tools=[TOOL]), stream=stream)
    [made] = said.tool_calls
    assert (made.name, json.loads(made.arguments_json)) == ("weather", {"city": "Lyon"})
    served.vertex.parts = [{"text": "Sunny"}]
    answer = await served.installation.inference().Complete(
        ask(VERTEX, text("go"), said, *results_of(said), tools=[TOOL])
    )
    assert answer.text == "Sunny"
    assert "c2lnbmVk" in json.dumps(served.vertex.bodies[-1])
    assert [path.rpartition(":")[2] for path, _ in served.vertex.calls] == [
        "streamGenerateContent" if stream else "generateContent",
        "generateContent",
    ]


@pytest.mark.parametrize(
    ("status", "word", "message", "reason"),
    [
        (400, "INVALID_ARGUMENT", TOO_LONG, "CONTEXT_WINDOW_EXCEEDED"),
        (403, "PERMISSION_DENIED", "Permission denied on resource project", "UPSTREAM_CREDENTIAL_REJECTED"),
        (429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later.", "UPSTREAM_RATE_LIMITED"),
    ],
)
async def test_errors_of_vertex_keep_their_meaning_and_words(
    served: Served, status: int, word: str, message: str, reason: str
) -> None:
    await store(served.installation, "vertex_ai", json.dumps(service_account()), served.vertex.url)
    served.vertex.fault = status, {"error": {"code": status, "message": message, "status": word}}
    for call in (served.installation.inference().Complete(ask(VERTEX)), read(served, VERTEX)):
        failure = await refusal(call)
        assert failure.reason == reason
        assert message in failure.message


async def test_a_service_account_is_exchanged_at_googles_address_for_a_token(served: Served) -> None:
    await store(served.installation, "vertex_ai", json.dumps(service_account()), served.vertex.url)
    answer = await served.installation.inference().Complete(ask("vertex_ai/gemini-2.5-flash"))
    assert answer.text == "Bonjour"
    assert len(served.vertex.grants) == 1
    path, authorization = served.vertex.calls[-1]
    assert authorization == "Bearer ya29.of-the-account"
    assert path.endswith("gemini-2.5-flash:generateContent")


async def full_model(served: Served, upstream: str, **options: str) -> str:
    """Add a model that sees, reads files and follows schemas, and return its name."""
    name = f"full/{upstream.rpartition('/')[2]}"
    capabilities = model_pb2.Capabilities(
        chat=True, tools=True, images=True, documents=True, json_schema=True, reasoning=True
    )
    model = model_pb2.Model(
        name=name,
        provider=model_pb2.PROVIDER_LITELLM,
        upstream_model=upstream,
        capabilities=capabilities,
        provider_options=options,
    )
    await served.installation.models().CreateModel(model_pb2.CreateModelRequest(model=model))
    return name


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def question_with_files(model: str) -> pb.CompleteRequest:
    request = ask(model)
    request.completion.messages[-1].content.extend(
        (pb.ContentPart(image=pb.Image(data=PNG)), pb.ContentPart(document=pb.Document(data=PDF)))
    )
    return request


async def test_vertex_gets_files_schemas_and_budgets_and_shows_its_thoughts(served: Served) -> None:
    await store(served.installation, "vertex_ai", json.dumps(service_account()), served.vertex.url)
    model = await full_model(served, VERTEX, project="my-project", location="europe-west4")
    await served.installation.inference().Complete(question_with_files(model))
    types = [part["inline_data"]["mime_type"] for part in _inline(served.vertex.bodies[-1])]
    assert types == ["image/png", "application/pdf"]
    served.vertex.parts = [{"text": "I think", "thought": True}, {"text": '{"city": "Paris"}'}]
    request = ask(model)
    request.completion.response_format.schema.CopyFrom(to_struct(SCHEMA))
    request.completion.sampling.reasoning_effort = "low"
    answer = await served.installation.inference().Complete(request)
    assert (answer.reasoning, answer.text) == ("I think", '{"city": "Paris"}')
    asked = served.vertex.bodies[-1]["generationConfig"]
    assert asked["response_mime_type" if "response_mime_type" in asked else "responseMimeType"] == "application/json"
    assert "city" in json.dumps(asked)
    assert asked["thinkingConfig"]["thinkingBudget"] > 0


def _inline(body: Any) -> list[Any]:
    return [part for content in body["contents"] for part in content["parts"] if "inline_data" in part]


async def test_bedrock_gets_files(served: Served) -> None:
    await store(served.installation, "bedrock", json.dumps(AWS_KEYS), served.bedrock.url)
    model = await full_model(served, BEDROCK, region="eu-central-1")
    await served.installation.inference().Complete(question_with_files(model))
    content = served.bedrock.calls[-1].body["messages"][-1]["content"]
    assert [block["image"]["format"] for block in content if "image" in block] == ["png"]
    assert [block["document"]["format"] for block in content if "document" in block] == ["pdf"]


async def test_bedrock_follows_schemas_in_the_form_each_model_has(served: Served) -> None:
    await store(served.installation, "bedrock", json.dumps(AWS_KEYS), served.bedrock.url)
    for upstream, form in ((CLAUDE, "outputConfig"), ("bedrock/eu.amazon.nova-lite-v1:0", "toolConfig")):
        request = ask(await full_model(served, upstream, region="eu-central-1"))
        request.completion.response_format.schema.CopyFrom(to_struct(SCHEMA))
        if form == "toolConfig":
            served.bedrock.tools = [ToolUse("tooluse_1", "json_tool_call", {"city": "Paris"})]
        else:
            served.bedrock.text = '{"city": "Paris"}'
        answer = await served.installation.inference().Complete(request)
        assert json.loads(answer.text) == {"city": "Paris"}
        assert (list(answer.tool_calls), answer.finish_reason) == ([], pb.FINISH_REASON_STOP)
        assert "city" in json.dumps(served.bedrock.calls[-1].body[form])


async def test_bedrock_shows_thoughts_and_gets_the_signed_ones_back(served: Served) -> None:
    await store(served.installation, "bedrock", json.dumps(AWS_KEYS), served.bedrock.url)
    model = await full_model(
        served, CLAUDE.replace("sonnet-4-5-20250929", "3-7-sonnet-20250219"), region="eu-central-1"
    )
    served.bedrock.thought = Thought("I think", "c2ln")
    served.bedrock.tools = [ToolUse("tooluse_1", "weather", {"city": "Lyon"})]
    request = ask(model, tools=[TOOL])
    request.completion.sampling.reasoning_effort = "low"
    answer = await served.installation.inference().Complete(request)
    assert (answer.reasoning, answer.text) == ("I think", "Bonjour tout le monde")
    assert served.bedrock.calls[-1].body["additionalModelRequestFields"]["thinking"]["budget_tokens"] > 0
    stream = served.installation.inference().StreamComplete(pb.StreamCompleteRequest(completion=request.completion))
    thought = [piece.thinking for piece in [piece async for piece in stream] if piece.HasField("thinking")]
    assert thought == list(answer.thinking)
    said = pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=answer.tool_calls)
    said.content.add(thinking=thought[0])
    request.completion.messages.extend([said, *results_of(said)])
    await served.installation.inference().Complete(request)
    (_, back, _) = served.bedrock.calls[-1].body["messages"]
    signed = {"text": "I think", "signature": "c2ln"}
    assert back["content"][0] == {"reasoningContent": {"reasoningText": signed}}
    assert back["content"][1]["toolUse"]["toolUseId"] == "tooluse_1"


async def test_what_only_litellm_knows_that_a_model_does_not_take_is_named_or_dropped(served: Served) -> None:
    await store(served.installation, "bedrock", json.dumps(AWS_KEYS), served.bedrock.url)
    request = ask(BEDROCK)
    request.completion.sampling.reasoning_effort = "low"
    request.completion.sampling.temperature = 0.5
    for call in (complete, stream_to_end):
        failure = await refusal(call(served, request))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UPSTREAM_REJECTED")
        assert failure.metadata["parameters"] == "reasoning_effort"
    assert served.bedrock.calls == []
    request.completion.drop_unsupported_parameters = True
    for call in (complete, stream_to_end):
        assert list((await call(served, request)).dropped_parameters) == ["reasoning_effort"]
        assert served.bedrock.calls[-1].body["inferenceConfig"] == {"temperature": 0.5}


async def complete(served: Served, request: pb.CompleteRequest) -> pb.CompleteResponse:
    response: pb.CompleteResponse = await served.installation.inference().Complete(request)
    return response


async def stream_to_end(served: Served, request: pb.CompleteRequest) -> pb.Finish:
    stream = served.installation.inference().StreamComplete(pb.StreamCompleteRequest(completion=request.completion))
    pieces: list[pb.StreamCompleteResponse] = [piece async for piece in stream]
    return pieces[-1].finish


@pytest.mark.parametrize(
    "upstream",
    [
        "bedrock/amazon.titan-embed-text-v2:0",
        "bedrock/cohere.embed-multilingual-v3",
        "vertex_ai/text-embedding-005",
        "vertex_ai/gemini-embedding-001",
    ],
)
async def test_bedrock_and_vertex_embed_in_order(served: Served, upstream: str) -> None:
    in_bedrock = upstream.startswith("bedrock")
    await store(served.installation, "bedrock", json.dumps(AWS_KEYS), served.bedrock.url)
    await store(served.installation, "vertex_ai", json.dumps(service_account()), served.vertex.url)
    model = model_pb2.Model(
        name=f"embed/{upstream.rpartition('/')[2]}",
        provider=model_pb2.PROVIDER_LITELLM,
        upstream_model=upstream,
        capabilities=model_pb2.Capabilities(embeddings=True),
        embedding_dimension=2,
        provider_options={"region": "eu-central-1"} if in_bedrock else {"project": "my-project"},
    )
    await served.installation.models().CreateModel(model_pb2.CreateModelRequest(model=model))
    response = await served.installation.inference().Embed(pb.EmbedRequest(model=model.name, texts=["one", "three"]))
    slopes = [row.values[0] / row.values[1] for row in response.embeddings]
    assert slopes == [pytest.approx(3), pytest.approx(5)]
    assert response.usage.input_tokens > 0
    request = pb.EmbedRequest(model=model.name, texts=["four"], dimensions=2)
    assert (await served.installation.inference().Embed(request)).dimension == 2
    sent = json.dumps(served.bedrock.calls[-1].body if in_bedrock else served.vertex.bodies[-1])
    assert "imension" in sent


@pytest.mark.parametrize("word", ["MAX_TOKENS", "SAFETY"])
async def test_ends_of_vertex_keep_their_meaning(served: Served, word: str) -> None:
    await store(served.installation, "vertex_ai", json.dumps(service_account()), served.vertex.url)
    served.vertex.finish = word
    reason = pb.FINISH_REASON_LENGTH if word == "MAX_TOKENS" else pb.FINISH_REASON_CONTENT_FILTER
    assert (await served.installation.inference().Complete(ask(VERTEX))).finish_reason == reason
    assert (await read(served, VERTEX))[-1].finish.reason == reason


async def test_an_error_in_the_middle_of_a_stream_of_vertex_keeps_its_words(served: Served) -> None:
    await store(served.installation, "vertex_ai", json.dumps(service_account()), served.vertex.url)
    served.vertex.broken = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    failure = await refusal(read(served, VERTEX))
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert "The model is overloaded." in failure.message


async def test_no_group_calls_anything_with_what_the_machine_holds(served: Served) -> None:
    installation = served.installation
    (helper,) = helpers()
    if environment := environment_of(helper.pid):
        assert not [name for name, value in AMBIENT.items() if environment.get(name) == value]
        assert environment["AWS_EC2_METADATA_DISABLED"] == "true"
        assert environment["HOME"] != os.environ["HOME"]
    await add(installation, BEDROCK, BOB, region="eu-central-1")
    await add(installation, "vertex_ai/gemini-2.5-flash", BOB)
    calls = len(served.vertex.calls)
    # Even where the operator lets the address be called without a key.
    for model in (BEDROCK, "vertex_ai/gemini-2.5-flash"):
        failure = await refusal(installation.inference(BOB).Complete(ask(model)))
        assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
        assert failure.reason in ("CREDENTIAL_NOT_CONFIGURED", "UPSTREAM_CREDENTIAL_REJECTED")
    assert served.bedrock.calls == []
    assert len(served.vertex.calls) == calls


async def test_an_error_in_the_middle_of_a_stream_of_ollama_is_an_outage_in_its_own_words(served: Served) -> None:
    said = {"model": "m", "message": {"role": "assistant", "content": "half"}, "done": False}
    served.ollama.lines = [said, {"error": "model runner has unexpectedly stopped"}]
    call = served.installation.inference().StreamComplete(ask_stream("ollama_chat/m"))
    pieces: list[pb.StreamCompleteResponse] = []
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for piece in call:
            pieces.append(piece)
    failure = read_refusal(failed.value)
    assert text_of(pieces) == "half"
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
    assert '"model runner has unexpectedly stopped"' in failure.message


@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"])
async def test_answers_come_from_the_providers_own_wires(served: Served, model: str) -> None:
    served.llm.on(Reply(text="Bonjour tout le monde"))
    assert (await served.installation.inference().Complete(ask(model))).text == "Bonjour tout le monde"
    assert text_of(await read(served, model)) == "Bonjour tout le monde"
    assert len(served.llm.calls) == 2


@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (LlmFault(status=401, message=f"invalid key {ANTHROPIC_KEY}"), "UPSTREAM_CREDENTIAL_REJECTED"),
        (LlmFault(status=400, message="messages: the words of the provider"), "UPSTREAM_REJECTED"),
        (LlmFault(status=429, message="slow down please", retry_after="90"), "UPSTREAM_RATE_LIMITED"),
        (LlmFault(status=503, message="the house is full"), "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_errors_come_in_the_providers_own_words(
    served: Served, model: str, stream: bool, fault: LlmFault, reason: str
) -> None:
    served.llm.on(Reply(fault=fault))
    call = read(served, model) if stream else served.installation.inference().Complete(ask(model))
    failure = await refusal(call)
    assert failure.reason == reason
    assert "litellm" not in failure.message
    assert "Exception" not in failure.message
    if "key" in fault.message:
        assert ANTHROPIC_KEY not in failure.raw or not model.startswith("anthropic")
    else:
        assert f'"{fault.message}"' in failure.message
    if fault.retry_after:
        assert failure.retry_after == 90.0
        assert len(served.llm.calls) == 1


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (429, "Number of request tokens has exceeded your per-minute rate limit", "UPSTREAM_RATE_LIMITED"),
        (400, "prompt is too long: 205000 tokens > 200000 maximum", "CONTEXT_WINDOW_EXCEEDED"),
        (400, "Output blocked by content filtering policy", "CONTENT_FILTERED"),
        (400, "messages: the words of the provider", "UPSTREAM_REJECTED"),
        (401, "invalid x-api-key", "UPSTREAM_CREDENTIAL_REJECTED"),
        (402, "Your credit balance is too low", "UPSTREAM_QUOTA_EXHAUSTED"),
        (529, "Overloaded", "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_an_error_of_anthropic_in_the_place_of_a_stream_keeps_its_meaning(
    served: Served, status: int, message: str, reason: str
) -> None:
    served.llm.on(Reply(fault=LlmFault(status=status, message=message, sent_as=200, retry_after="90")))
    failure = await refusal(read(served, "anthropic/claude-sonnet-4-5"))
    assert failure.reason == reason, failure.message
    assert f'"{message}"' in failure.message


@pytest.mark.parametrize("body", [": a comment\n\n: another\n\n", ""])
async def test_a_stream_of_gemini_without_an_answer_is_no_empty_answer(served: Served, body: str) -> None:
    served.llm.on(Reply(raw_body=body))
    failure = await refusal(read(served, "gemini/gemini-2.5-flash"))
    assert failure.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("stream", [False, True])
async def test_a_malformed_call_of_gemini_is_no_empty_answer(served: Served, stream: bool) -> None:
    served.llm.on(Reply(text="", finish_reason="MALFORMED_FUNCTION_CALL"))
    model = "gemini/gemini-2.5-flash"
    call = read(served, model) if stream else served.installation.inference().Complete(ask(model))
    failure = await refusal(call)
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert "malformed_function_call" in failure.message


@pytest.mark.parametrize(
    ("upstream", "base_url", "fields"),
    [
        ("azure/m", "", ["model.provider"]),
        ("ollama/m", "", ["model.provider"]),
        ("databricks/m", "", ["model.provider"]),
        ("gemini/m", "https://example.com", ["model.base_url"]),
        ("gemini/https://example.com", "", ["model.upstream_model"]),
        ("bedrock/m", "", ["model.provider_options.region"]),
        ("sagemaker/m", "", ["model.upstream_model"]),
    ],
)
async def test_what_a_group_may_not_reach_through_litellm_is_refused_with_the_reason(
    served: Served, upstream: str, base_url: str, fields: list[str]
) -> None:
    model = model_pb2.Model(
        name="sales/other",
        provider=model_pb2.PROVIDER_LITELLM,
        upstream_model=upstream,
        base_url=base_url,
        capabilities=model_pb2.Capabilities(chat=True),
    )
    failure = await refusal(served.installation.models().CreateModel(model_pb2.CreateModelRequest(model=model)))
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields)

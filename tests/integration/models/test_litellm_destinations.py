"""Where litellm sends calls: to the origin that their credential is asked for, and to no other one."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from services.models.domain.model import Model, ModelSpec, Provider
from services.models.providers.litellm.arguments import provider_arguments
from services.models.providers.litellm.destinations import destination_of, ports_of_destinations
from services.models.providers.litellm.helper import LitellmError, LitellmHelper, Progress
from services.models.settings import ModelsSettings
from tests.support.http_emulator import HttpEmulator

# Each start of the helper costs seconds of CPU: one for the whole file.
pytestmark = pytest.mark.asyncio(loop_scope="module")
ELSEWHERE = "https://elsewhere.example.com"
PROVIDERS: list[str] = ModelsSettings.model_fields["litellm_providers"].default
WITHOUT_CHAT = ("voyage",)
WITH_EMBEDDINGS = {
    "bedrock": "amazon.titan-embed-text-v2:0",
    "cohere": "embed-v4.0",
    "gemini": "gemini-embedding-001",
    "mistral": "mistral-embed",
    "openrouter": "openai/text-embedding-3-small",
    "together_ai": "some/embedder",
    "vertex_ai": "text-embedding-005",
    "voyage": "voyage-3",
}
CHAT_MODELS = {"bedrock": "eu.amazon.nova-pro-v1:0", "gemini": "gemini-2.5-flash", "vertex_ai": "gemini-2.5-flash"}
OPTIONS = {"bedrock": {"region": "eu-central-1"}, "vertex_ai": {"project": "my-project", "location": "europe-west4"}}
CREDENTIALS = {"bedrock": json.dumps({"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "secret"})}


class Redirects(HttpEmulator):
    """Sends every call on to another address, and gives out tokens of Google's kind."""

    def install(self, app: web.Application) -> None:
        app.router.add_post("/token", self._token)
        app.router.add_post("/{path:.*}", self._redirect)

    async def _token(self, _: web.Request) -> web.Response:
        return web.json_response({"access_token": "ya29.x", "expires_in": 3600, "token_type": "Bearer"})

    async def _redirect(self, _: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{ELSEWHERE}/v1/chat/completions"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def helper(tmp_path_factory: pytest.TempPathFactory, emulator: Redirects) -> AsyncIterator[LitellmHelper]:
    ports = ports_of_destinations({"groq": emulator.url})
    started = await LitellmHelper.start(tmp_path_factory.mktemp("litellm"), 1_000_000, ports)
    yield started
    await started.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def emulator() -> AsyncIterator[Redirects]:
    with pytest.MonkeyPatch.context() as patch:
        async with Redirects() as emulator:
            patch.setattr("services.models.providers.litellm.arguments._GOOGLE_TOKEN_ADDRESS", f"{emulator.url}/token")
            yield emulator


def model_of(provider: str, name: str, **options: str) -> Model:
    spec = ModelSpec("m", Provider.LITELLM, upstream_model=f"{provider}/{name}", provider_options=options)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Model("1", "sales", spec, enabled=True, created_at=now, updated_at=now)


async def wanted(helper: LitellmHelper, model: Model, kind: str, address: str, origin: str = ELSEWHERE) -> str:
    """Return the origin that litellm would have sent a call to that may go to another one only."""
    provider = model.spec.upstream_name.partition("/")[0]
    token = service_account() if provider == "vertex_ai" else CREDENTIALS.get(provider, "a-key")
    request: dict[str, Any] = (
        {"input": ["hello"]} if kind == "embed" else {"messages": [{"role": "user", "content": "hello"}]}
    )
    named = provider_arguments(model, provider, token, address).named
    arguments = {"model": model.spec.upstream_name, **request, **named}
    limits = {"connect": 30, "first_byte": 30, "idle": 30}
    with pytest.raises(LitellmError) as raised:
        async for _ in helper.call(kind, arguments, origin, limits, Progress()):
            pass
    assert raised.value.error["code"] == "elsewhere", raised.value.error
    return str(raised.value.error["message"])


def service_account() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "my-project",
            "private_key": pem.decode(),
            "client_email": "me@my-project.iam.gserviceaccount.com",
        }
    )


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name not in WITHOUT_CHAT])
@pytest.mark.parametrize("kind", ["complete", "stream"])
async def test_chats_would_go_where_their_key_is_asked_for(
    helper: LitellmHelper, emulator: Redirects, provider: str, kind: str
) -> None:
    model = model_of(provider, CHAT_MODELS.get(provider, "some-model"), **OPTIONS.get(provider, {}))
    destination = destination_of(model, {})
    assert await wanted(helper, model, kind, destination.chat) == destination.origin


@pytest.mark.parametrize("provider", WITH_EMBEDDINGS)
async def test_embeddings_would_go_there_too(helper: LitellmHelper, emulator: Redirects, provider: str) -> None:
    model = model_of(provider, WITH_EMBEDDINGS[provider], **OPTIONS.get(provider, {}))
    destination = destination_of(model, {})
    assert await wanted(helper, model, "embed", destination.embeddings) == destination.origin


@pytest.mark.parametrize(
    ("provider", "options"),
    [
        ("bedrock", {"region": "us-gov-west-1"}),
        ("bedrock", {"region": "cn-north-1"}),
        ("vertex_ai", {"project": "my-project"}),
        ("vertex_ai", {"project": "my-project", "location": "global"}),
        ("vertex_ai", {"project": "my-project", "location": "eu"}),
    ],
)
async def test_regions_and_locations_have_addresses_of_their_own(
    helper: LitellmHelper, emulator: Redirects, provider: str, options: dict[str, str]
) -> None:
    model = model_of(provider, CHAT_MODELS[provider], **options)
    assert await wanted(helper, model, "complete", "") == destination_of(model, {}).origin


async def test_a_redirect_takes_no_key_elsewhere(helper: LitellmHelper, emulator: Redirects) -> None:
    for provider in ("anthropic", "groq", "gemini"):
        model = model_of(provider, "some-model")
        assert await wanted(helper, model, "complete", f"{emulator.url}/v1", emulator.url) == ELSEWHERE


async def test_every_provider_that_groups_may_use_has_an_address() -> None:
    for provider in PROVIDERS:
        assert destination_of(model_of(provider, "m", **OPTIONS.get(provider, {})), {}).origin, provider


async def test_the_operators_address_takes_the_place_of_the_providers(tmp_path: Path) -> None:
    model = model_of("groq", "m")
    found = destination_of(model, {"groq": "https://Gateway.example.com:443/v1"})
    assert (found.origin, found.chat) == ("https://gateway.example.com", "https://Gateway.example.com:443/v1")
    assert destination_of(model_of("unheard_of", "m"), {}).origin == ""
    assert destination_of(model_of("bedrock", "m"), {}).origin == ""

"""Whether a caller has the credential of a model, as listings say it."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.auth.v1 import secret_pb2, secret_service_pb2_grpc
from coxswain.models.v1 import model_pb2 as pb
from services.auth.servicers.auth import AuthServicer
from services.common.errors import Unavailable
from services.models.usecases import credential_checks
from tests.integration.models.support import CHAT, KEY, OFFLINE, REASONER, Installation, ask, serve_models
from tests.support.harness import ALICE, BOB

SEED: list[dict[str, Any]] = [
    {"name": OFFLINE, "provider": "offline", "capabilities": ["chat"]},
    {"name": CHAT, "provider": "openai", "capabilities": ["chat"]},
    {"name": "openai/other", "provider": "openai", "capabilities": ["chat"]},
    {"name": REASONER, "provider": "databricks", "capabilities": ["chat"]},
    {"name": "groq/m", "provider": "litellm", "upstream_model": "groq/m", "capabilities": ["chat"]},
    {"name": "ollama/m", "provider": "ollama", "capabilities": ["chat"]},
]


@pytest.fixture(autouse=True)
def _no_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OLLAMA_API_KEY", "GROQ_API_KEY", "OPENAI_API_KEY", "DATABRICKS_TOKEN", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


async def credentials(installation: Installation, bearer: str = ALICE) -> dict[str, str]:
    models = (await installation.models(bearer).ListModels(pb.ListModelsRequest())).models
    for model in models:
        found = (await installation.models(bearer).GetModel(pb.GetModelRequest(name=model.name))).model
        assert found.credential == model.credential
    prefix = "CREDENTIAL_AVAILABILITY_"
    return {model.name: pb.CredentialAvailability.Name(model.credential).removeprefix(prefix) for model in models}


async def test_a_listing_says_which_models_the_caller_has_a_credential_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(tmp_path, monkeypatch, seed=SEED) as installation:
        expected = {
            OFFLINE: "NOT_NEEDED",
            CHAT: "AVAILABLE",
            "openai/other": "AVAILABLE",
            REASONER: "AVAILABLE",
            "groq/m": "MISSING",
            "ollama/m": "NOT_NEEDED",
        }
        assert await credentials(installation) == expected
        await installation.inference().Complete(ask(CHAT))
        assert await credentials(installation) == expected


async def test_a_groups_key_is_its_own_and_counts_for_the_address_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(tmp_path, monkeypatch, key="", seed=SEED) as installation:
        assert (await credentials(installation))[CHAT] == "MISSING"
        secrets = secret_service_pb2_grpc.SecretServiceStub(installation.harness.channel())
        request = secret_pb2.PutSecretRequest(name="llm/openai", value=KEY, allowed_origins=[installation.llm.url])
        await secrets.PutSecret(request)
        own = pb.Model(
            name="elsewhere",
            provider=pb.PROVIDER_OPENAI,
            base_url="https://example.com/v1",
            capabilities=pb.Capabilities(chat=True),
        )
        created = (await installation.models().CreateModel(pb.CreateModelRequest(model=own))).model
        assert created.credential == pb.CREDENTIAL_AVAILABILITY_MISSING
        found = await credentials(installation)
        assert (found[CHAT], found["elsewhere"]) == ("AVAILABLE", "MISSING")
        assert (await credentials(installation, BOB))[CHAT] == "MISSING"


@pytest.mark.parametrize("behaviour", ["fails", "hangs"])
async def test_an_auth_that_does_not_answer_fails_no_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    async def explain(self: AuthServicer, request: Any, context: Any) -> Any:
        if behaviour == "fails":
            raise Unavailable("auth is away")
        await asyncio.Event().wait()

    monkeypatch.setattr(AuthServicer, "ExplainCredentials", explain)
    monkeypatch.setattr(credential_checks, "_SECONDS", 0.2)
    async with serve_models(tmp_path, monkeypatch, seed=SEED) as installation:
        found = await credentials(installation)
        assert found.pop(OFFLINE) == "NOT_NEEDED"
        assert set(found.values()) == {"UNKNOWN"}
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await installation.models().GetModel(pb.GetModelRequest(name="none"))
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND

"""Secrets of tools: of the caller's group, by their name, for exactly one of their origins."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from grpc import StatusCode

from coxswain.auth.v1 import credential_pb2, secret_pb2
from services.common.grpc.call import acting_as
from tests.integration.auth.support import internal, public, refused, secrets, token_of
from tests.support.harness import ALICE, BOB, Harness, serve_services

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOME, OTHER = "https://billing.example.com", "https://orders.example.com:8443"
VALUE = "marked-tool-secret-91"
TOOL = credential_pb2.CREDENTIAL_PURPOSE_TOOL
CALLER = credential_pb2.CREDENTIAL_PURPOSE_TOOL_CALLER


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    directory: Path = tmp_path_factory.mktemp("auth")
    async with serve_services(directory) as harness:
        for name, value in (("tools/billing", VALUE), ("tools/other", "another"), ("llm/openai", "sk-marked")):
            request = secret_pb2.PutSecretRequest(name=name, value=value, allowed_origins=[HOME, OTHER])
            await secrets(harness, ALICE).PutSecret(request)
        yield harness


async def resolve(auth: Harness, bearer: str = ALICE, service: str = "tools", **fields: Any) -> Any:
    values: dict[str, Any] = {"purpose": TOOL, "secret_name": "tools/billing", "destination_origin": HOME}
    request = credential_pb2.ResolveCredentialRequest(**(values | fields))
    with acting_as(await token_of(auth, bearer)):
        return await internal(auth, service).ResolveCredential(request)


@pytest.mark.parametrize("origin", [HOME, OTHER, f"{HOME}:443/pay"])
async def test_a_secret_comes_with_the_one_origin_it_was_asked_for(auth: Harness, origin: str) -> None:
    answer = await resolve(auth, destination_origin=origin)
    assert (answer.token, answer.link) == (VALUE, "stored_secret")
    assert answer.origin == (OTHER if origin == OTHER else HOME)
    assert (await resolve(auth, secret_name="tools/other")).token == "another"


@pytest.mark.parametrize(
    "origin", ["https://evil.example.com", "http://billing.example.com", "https://billing.example.com:444"]
)
async def test_it_goes_to_no_other_origin(auth: Harness, origin: str) -> None:
    with refused(StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED") as refusal:
        await resolve(auth, destination_origin=origin)
    assert VALUE not in refusal.message


async def test_another_group_has_its_own_or_none(auth: Harness) -> None:
    with refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED") as refusal:
        await resolve(auth, BOB)
    assert "tools/billing" in refusal.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"secret_name": ""}, "secret_name"),
        ({"secret_name": "llm/openai"}, "secret_name"),
        ({"secret_name": "tools/../llm/openai"}, "secret_name"),
        ({"secret_name": "tools/{provider}"}, "secret_name"),
        ({"destination_origin": ""}, "destination_origin"),
        ({"destination_origin": "billing.example.com"}, "destination_origin"),
        ({"purpose": CALLER, "destination_origin": ""}, "destination_origin"),
    ],
)
async def test_what_names_no_secret_of_a_tool_or_no_origin_is_refused(
    auth: Harness, fields: dict[str, Any], field: str
) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await resolve(auth, **fields)
    assert refusal.fields == [field]


async def test_a_caller_without_a_token_of_their_own_gets_nobody_elses(auth: Harness) -> None:
    with refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED") as refusal:
        await resolve(auth, purpose=CALLER)
    assert refusal.metadata["links"] == "user_token"


@pytest.mark.parametrize("service", ["orchestrator"])
async def test_neither_the_api_nor_a_worker_host_gets_a_secret(auth: Harness, service: str) -> None:
    with refused(StatusCode.PERMISSION_DENIED, "SERVICE_NOT_ALLOWED"):
        await resolve(auth, service=service)


async def test_an_explanation_says_what_a_resolution_would_do(auth: Harness) -> None:
    async def explain(bearer: str = ALICE, **fields: Any) -> credential_pb2.ExplainCredentialResponse:
        values: dict[str, Any] = {"purpose": TOOL, "secret_name": "tools/billing", "destination_origin": HOME}
        request = credential_pb2.ExplainCredentialRequest(**(values | fields))
        return await public(auth, bearer).ExplainCredential(request)

    good = await explain()
    assert (good.resolvable, good.origin) == (True, HOME)
    assert 'secret "tools/billing"' in good.links[0].detail
    assert VALUE not in str(good)
    elsewhere = await explain(destination_origin="https://evil.example.com")
    assert not elsewhere.resolvable
    assert elsewhere.links[0].outcome == credential_pb2.LINK_OUTCOME_REJECTED
    assert (await explain(BOB)).links[0].outcome == credential_pb2.LINK_OUTCOME_ABSENT


async def test_a_new_value_counts_at_once(auth: Harness) -> None:
    await resolve(auth, secret_name="tools/other")
    request = secret_pb2.PutSecretRequest(name="tools/other", value="newer", allowed_origins=[HOME])
    await secrets(auth, ALICE).PutSecret(request)
    assert (await resolve(auth, secret_name="tools/other")).token == "newer"

"""Passwords of databases: of the caller's group, by their name, for exactly the server they are allowed for."""

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

HOME, OTHER = "postgresql://db.example.com:5432", "postgresql://db.example.com:6543"
VALUE = "marked-database-secret-92"
POSTGRESQL = credential_pb2.CREDENTIAL_PURPOSE_POSTGRESQL


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    directory: Path = tmp_path_factory.mktemp("auth")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("POSTGRESQL_PASSWORD", "of-the-operator")
        environment.setenv("POSTGRESQL_BASE_URL", OTHER)
        async with serve_services(directory) as harness:
            for name, value in (("postgresql/password", VALUE), ("tools/billing", "of-a-tool")):
                request = secret_pb2.PutSecretRequest(name=name, value=value, allowed_origins=[HOME])
                stored = await secrets(harness, ALICE).PutSecret(request)
                # The port of PostgreSQL goes without saying.
                assert stored.secret.allowed_origins == ["postgresql://db.example.com"]
            yield harness


async def resolve(auth: Harness, bearer: str = ALICE, **fields: Any) -> Any:
    values: dict[str, Any] = {"purpose": POSTGRESQL, "destination_origin": HOME}
    request = credential_pb2.ResolveCredentialRequest(**(values | fields))
    with acting_as(await token_of(auth, bearer)):
        return await internal(auth, "memory").ResolveCredential(request)


async def test_a_password_goes_to_its_server_alone(auth: Harness) -> None:
    answer = await resolve(auth)
    assert (answer.token, answer.link, answer.origin) == (VALUE, "stored_secret", "postgresql://db.example.com")
    for elsewhere in (OTHER, "postgresql://db.example.org", "https://db.example.com"):
        code, reason = StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED"
        with refused(code, reason) as refusal:
            await resolve(auth, destination_origin=elsewhere)
        assert VALUE not in refusal.message


async def test_the_operators_password_is_for_the_operators_server(auth: Harness) -> None:
    answer = await resolve(auth, BOB, destination_origin=OTHER)
    assert (answer.token, answer.link) == ("of-the-operator", "environment")
    with refused(StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED"):
        await resolve(auth, BOB)


@pytest.mark.parametrize("name", ["tools/billing", "llm/openai", "postgresql/../tools/billing"])
async def test_secrets_of_other_things_are_no_passwords_of_databases(auth: Harness, name: str) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await resolve(auth, secret_name=name)
    assert refusal.fields == ["secret_name"]
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await resolve(
            auth,
            purpose=credential_pb2.CREDENTIAL_PURPOSE_TOOL,
            secret_name="postgresql/password",
            destination_origin="https://db.example.com",
        )


async def test_an_explanation_names_the_secret(auth: Harness) -> None:
    request = credential_pb2.ExplainCredentialRequest(purpose=POSTGRESQL, secret_name="postgresql/lake")
    explained = await public(auth, ALICE).ExplainCredential(request)
    seen = await public(auth, "dev:olaf:sales=operator").ExplainCredential(request)
    assert [link.outcome for link in seen.links] == [link.outcome for link in explained.links]
    assert {link.detail for link in seen.links if link.link in {"environment", "sdk_default"}} == {
        "an admin of the group sees why"
    }
    assert [link.link for link in explained.links] == ["stored_secret", "environment"]
    assert "postgresql/lake" in explained.links[0].detail
    assert VALUE not in str(explained)

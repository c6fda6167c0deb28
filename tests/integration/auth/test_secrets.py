"""A group's own credentials."""

import asyncio
from pathlib import Path

import pytest
from grpc import StatusCode

from coxswain.auth.v1 import credential_pb2, secret_pb2
from services.common.db.database import Database
from services.common.settings import database_url as service_database_url
from tests.integration.auth.support import llm, refused, resolve, secrets
from tests.support.harness import ALICE, BOB, Harness

AWS_PAIR = '{"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "marked-of-aws"}'
VALUE = "sk-marked-secret-value-000000"
HOME = "https://llm.example.com"


def put(name: str = "llm/openai", value: str = VALUE, *origins: str) -> secret_pb2.PutSecretRequest:
    return secret_pb2.PutSecretRequest(name=name, value=value, allowed_origins=origins or (HOME,))


async def everything_stored(auth: Harness) -> bytes:
    database = Database(service_database_url(auth.host._settings, "auth"), "auth")
    async with database.read() as connection:
        rows = await connection.exec_driver_sql("SELECT * FROM secrets")
        stored = repr(rows.fetchall()).encode()
    await database.close()
    return b"".join([stored, *_database_files(auth.data_dir)])


def _database_files(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("auth.db*")]


async def test_a_stored_secret_is_described_but_never_shown(auth: Harness) -> None:
    stored = (await secrets(auth, ALICE).PutSecret(put())).secret
    assert (stored.name, list(stored.allowed_origins), len(stored.fingerprint)) == ("llm/openai", [HOME], 12)
    listed = (await secrets(auth, ALICE).ListSecrets(secret_pb2.ListSecretsRequest())).secrets
    assert list(listed) == [stored]
    assert VALUE not in str(stored)
    assert VALUE.encode() not in await everything_stored(auth)
    answer = await resolve(auth, ALICE, **llm())
    assert (answer.token, answer.origin, answer.link) == (VALUE, HOME, "stored_secret")


async def test_a_new_value_replaces_the_old_one_at_once(auth: Harness) -> None:
    first = (await secrets(auth, ALICE).PutSecret(put())).secret
    assert (await resolve(auth, ALICE, **llm())).token == VALUE
    second = (await secrets(auth, ALICE).PutSecret(put("llm/openai", "sk-another"))).secret
    assert (await resolve(auth, ALICE, **llm())).token == "sk-another"
    assert first.fingerprint != second.fingerprint
    assert first.create_time == second.create_time
    assert len((await secrets(auth, ALICE).ListSecrets(secret_pb2.ListSecretsRequest())).secrets) == 1


async def test_a_deleted_secret_is_gone_at_once(auth: Harness) -> None:
    await secrets(auth, ALICE).PutSecret(put())
    await resolve(auth, ALICE, **llm())
    await secrets(auth, ALICE).DeleteSecret(secret_pb2.DeleteSecretRequest(name="llm/openai"))
    with refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED"):
        await resolve(auth, ALICE, **llm())
    with refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
        await secrets(auth, ALICE).DeleteSecret(secret_pb2.DeleteSecretRequest(name="llm/openai"))


async def test_groups_never_meet(auth: Harness) -> None:
    await secrets(auth, ALICE).PutSecret(put())
    assert not (await secrets(auth, BOB).ListSecrets(secret_pb2.ListSecretsRequest())).secrets
    with refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
        await secrets(auth, BOB).DeleteSecret(secret_pb2.DeleteSecretRequest(name="llm/openai"))
    with refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED"):
        await resolve(auth, BOB, **llm())
    theirs = (await secrets(auth, BOB).PutSecret(put())).secret
    mine = (await secrets(auth, ALICE).ListSecrets(secret_pb2.ListSecretsRequest())).secrets[0]
    # Not even whether two groups have the same value is visible.
    assert theirs.fingerprint != mine.fingerprint


async def test_a_secret_goes_only_where_it_may(auth: Harness) -> None:
    await secrets(auth, ALICE).PutSecret(put("llm/openai", VALUE, HOME + ":443", "http://127.0.0.1:9"))
    assert (await resolve(auth, ALICE, **llm("http://127.0.0.1:9"))).origin == "http://127.0.0.1:9"
    with refused(StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED") as refusal:
        await resolve(auth, ALICE, **llm("https://evil.example.com"))
    assert refusal.metadata == {"origin": "https://evil.example.com", "link": "stored_secret"}


async def test_writers_of_one_secret_do_not_lose_each_others_version(auth: Harness) -> None:
    values = [f"sk-value-{number:04}" for number in range(12)]
    await asyncio.gather(*(secrets(auth, ALICE).PutSecret(put("llm/openai", value)) for value in values))
    assert (await resolve(auth, ALICE, **llm())).token in values
    assert len((await secrets(auth, ALICE).ListSecrets(secret_pb2.ListSecretsRequest())).secrets) == 1


async def test_listing_goes_through_pages(auth: Harness) -> None:
    names = sorted(f"llm/provider-{number}" for number in range(5))
    for name in names:
        await secrets(auth, ALICE).PutSecret(put(name))
    found: list[str] = []
    request = secret_pb2.ListSecretsRequest(page_size=2)
    while True:
        page = await secrets(auth, ALICE).ListSecrets(request)
        found += [secret.name for secret in page.secrets]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == names
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await secrets(auth, BOB).ListSecrets(request)


@pytest.mark.parametrize("bearer", ["dev:olga:sales=operator", "dev:edna:sales=editor"])
async def test_secrets_are_for_admins(auth: Harness, bearer: str) -> None:
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await secrets(auth, bearer).PutSecret(put())
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await secrets(auth, bearer).ListSecrets(secret_pb2.ListSecretsRequest())
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        async for _ in secrets(auth, "dev:alice:sales=admin").RotateKey(secret_pb2.RotateKeyRequest()):
            pass


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (put("LLM/openai"), "name"),
        (put("../x"), "name"),
        (put("llm/openai", ""), "value"),
        (put("llm/openai", " sk-marked-padded\n"), "value"),
        (put("llm/openai", "sk-marked\x07key"), "value"),
        (put("databricks/api-key", "dapi-marked\nkey"), "value"),
        (put("databricks/pat", "dapi-marked\x7fkey"), "value"),
        (put("llm/some-gateway", "sk-marked\nkey"), "value"),
        (put("llm/bedrock", "marked-k\u00e9y"), "value"),
        (put("databricks/oauth-client", "marked-not-json"), "value"),
        (put("databricks/oauth-client", '{"client_id": "marked"}'), "value"),
        (put("llm/bedrock", '{"aws_access_key_id": "marked"}'), "value"),
        (put("llm/bedrock", AWS_PAIR[:-1] + ', "aws_profile_name": "marked"}'), "value"),
        (put("llm/bedrock", '["marked"]'), "value"),
        (put("llm/vertex_ai", "marked-key"), "value"),
        (put("llm/vertex_ai", '{"type": "authorized_user", "client_email": "marked", "private_key": "k"}'), "value"),
        (put("llm/vertex_ai", "[" * 30_000), "value"),
        (put("llm/openai", VALUE, "https://user@example.com"), "allowed_origins[0]"),
        (put("llm/openai", VALUE, "example.com"), "allowed_origins[0]"),
        (secret_pb2.PutSecretRequest(name="llm/openai", value=VALUE), "allowed_origins"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_malformed_secret_is_refused_by_field_without_repeating_it(
    auth: Harness, request_: secret_pb2.PutSecretRequest, field: str
) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await secrets(auth, ALICE).PutSecret(request_)
    assert refusal.message.startswith(f"{field}: ")
    assert "marked" not in refusal.message
    assert not (await secrets(auth, ALICE).ListSecrets(secret_pb2.ListSecretsRequest())).secrets


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("llm/bedrock", "{}", "an API key of Bedrock, or a JSON object with the texts aws_access_key_id"),
        ("llm/vertex_ai", "{}", "the JSON key of a service account"),
    ],
)
async def test_the_refusal_of_a_providers_credential_says_what_is_allowed(
    auth: Harness, name: str, value: str, allowed: str
) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await secrets(auth, ALICE).PutSecret(put(name, value))
    assert f"the value of {name} must be {allowed}" in refusal.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("llm/bedrock", "a-bedrock-key"),
        ("llm/bedrock", AWS_PAIR),
        ("llm/vertex_ai", '{"type": "service_account", "client_email": "a@example.com", "private_key": "k"}'),
        ("llm/groq", '{"a": "key"}'),
    ],
)
async def test_a_credential_in_its_providers_form_is_stored(auth: Harness, name: str, value: str) -> None:
    assert (await secrets(auth, ALICE).PutSecret(put(name, value))).secret.name == name


async def test_chains_take_the_secret_made_for_their_purpose(auth: Harness) -> None:
    await secrets(auth, ALICE).PutSecret(put("databricks/api-key", "dapi-general"))
    await secrets(auth, ALICE).PutSecret(put("databricks/pat", "dapi-search"))
    general = await resolve(auth, ALICE, purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS)
    search = await resolve(auth, ALICE, purpose=credential_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH)
    assert (general.token, search.token) == ("dapi-general", "dapi-search")

"""Keys of the ring: checked at start, rotated under load, named when they are missing."""

import asyncio
import base64
from pathlib import Path

import pytest
from grpc import StatusCode
from pydantic import SecretStr
from sqlalchemy import delete, insert, select

from coxswain.auth.v1 import credential_pb2, secret_pb2
from services.auth import tables
from services.auth.settings import AuthSettings
from services.common.db.database import Database
from services.common.startup import StartError
from tests.integration.auth.support import llm, public, refused, resolve, secrets
from tests.support.harness import ALICE, Harness, serve_services

K1, K2, OTHER = (base64.b64encode(bytes([number] * 32)).decode() for number in (1, 2, 3))
COUNT = 230


def ring(*entries: str) -> dict[str, AuthSettings]:
    return {"auth": AuthSettings(key_ring=SecretStr(",".join(entries)))}


async def fill(auth: Harness, count: int) -> None:
    stub = secrets(auth, ALICE)
    for number in range(count):
        origins = ["https://example.com"]
        await stub.PutSecret(
            secret_pb2.PutSecretRequest(name=f"llm/p{number}", value=f"v{number}", allowed_origins=origins)
        )


async def key_ids(auth: Harness) -> set[str]:
    listed = await secrets(auth, ALICE).ListSecrets(secret_pb2.ListSecretsRequest(page_size=1000))
    return {secret.key_id for secret in listed.secrets}


async def rotate(auth: Harness) -> list[secret_pb2.RotateKeyResponse]:
    return [progress async for progress in secrets(auth, "").RotateKey(secret_pb2.RotateKeyRequest())]


async def test_a_new_key_seals_only_after_rotation_and_the_old_one_may_then_go(
    tmp_path: Path, database_url: str
) -> None:
    async with serve_services(tmp_path, database_url=database_url, settings=ring(f"k1:{K1}")) as auth:
        await fill(auth, 3)
    async with serve_services(tmp_path, database_url=database_url, settings=ring(f"k1:{K1}", f"k2:{K2}")) as auth:
        await fill(auth, 2)
        assert await key_ids(auth) == {"k1"}
        progress = await rotate(auth)
        assert (progress[-1].done, progress[-1].key_id) == (progress[-1].total, "k2")
        assert progress[-1].total >= 4
        assert await key_ids(auth) == {"k2"}
    async with serve_services(tmp_path, database_url=database_url, settings=ring(f"k2:{K2}")) as auth:
        for number in range(3):
            assert (await resolve(auth, ALICE, **llm(provider=f"p{number}"))).token == f"v{number}"


async def test_secrets_stay_readable_and_writable_while_they_are_sealed_again(
    tmp_path: Path, database_url: str
) -> None:
    async with serve_services(tmp_path, database_url=database_url, settings=ring(f"k1:{K1}")) as auth:
        await fill(auth, COUNT)
    settings = ring(f"k1:{K1}", f"k2:{K2}")
    async with serve_services(tmp_path, database_url=database_url, settings=settings) as auth:
        stub, stop = secrets(auth, ALICE), asyncio.Event()

        async def read_and_write() -> int:
            rounds = 0
            while not stop.is_set():
                number = rounds % COUNT
                request = secret_pb2.PutSecretRequest(
                    name=f"llm/p{number}", value=f"v{number}", allowed_origins=["https://a.b"]
                )
                await stub.PutSecret(request)
                assert (await resolve(auth, ALICE, **llm(provider=f"p{number}"))).token == f"v{number}"
                rounds += 1
            return rounds

        load = asyncio.create_task(read_and_write())
        # Interrupted after the first message, and called again.
        async for _ in secrets(auth, "").RotateKey(secret_pb2.RotateKeyRequest()):
            break
        progress = await rotate(auth)
        stop.set()
        assert await load > 0
        assert progress[-1].done == progress[-1].total
        assert await key_ids(auth) == {"k2"}
        for number in range(0, COUNT, 23):
            assert (await resolve(auth, ALICE, **llm(provider=f"p{number}"))).token == f"v{number}"


async def test_equal_values_keep_equal_fingerprints_through_rotation(tmp_path: Path) -> None:
    async with serve_services(tmp_path, settings=ring(f"k1:{K1}")) as auth:
        await fill(auth, 1)
    async with serve_services(tmp_path, settings=ring(f"k1:{K1}", f"k2:{K2}")) as auth:
        await rotate(auth)
        same = secret_pb2.PutSecretRequest(name="llm/copy", value="v0", allowed_origins=["https://a.b"])
        await secrets(auth, ALICE).PutSecret(same)
        listed = (await secrets(auth, ALICE).ListSecrets(secret_pb2.ListSecretsRequest())).secrets
        assert len({secret.fingerprint for secret in listed}) == 1


@pytest.mark.parametrize("entries", [(f"k1:{OTHER}",), (f"k2:{K2}",), (f"k1:{OTHER}", f"k2:{K2}")])
async def test_auth_does_not_start_without_the_key_that_seals(tmp_path: Path, entries: tuple[str, ...]) -> None:
    async with serve_services(tmp_path, settings=ring(f"k1:{K1}")) as auth:
        await fill(auth, 1)
    with pytest.raises(StartError, match='"k1"'):
        async with serve_services(tmp_path, settings=ring(*entries)):
            pass


async def test_a_secret_under_a_lost_key_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    async with serve_services(tmp_path, settings=ring(f"k1:{K1}")) as auth:
        await fill(auth, 2)
    database = Database(f"sqlite:///{tmp_path / 'auth.db'}", "auth")
    async with database.read() as connection:
        backup = (await connection.execute(select(tables.secrets).where(tables.secrets.c.name == "llm/p1"))).one()
    async with serve_services(tmp_path, settings=ring(f"k1:{K1}", f"k2:{K2}")) as auth:
        await rotate(auth)
    async with database.write() as connection:
        await connection.execute(delete(tables.secrets).where(tables.secrets.c.name == "llm/p1"))
        await connection.execute(insert(tables.secrets).values(**backup._mapping))
    await database.close()
    async with serve_services(tmp_path, settings=ring(f"k2:{K2}")) as auth:
        assert (await resolve(auth, ALICE, **llm(provider="p0"))).token == "v0"
        with refused(StatusCode.FAILED_PRECONDITION, "KEY_UNAVAILABLE") as refusal:
            await resolve(auth, ALICE, **llm(provider="p1"))
        assert refusal.metadata == {"key_id": "k1"}
        request_ = credential_pb2.ExplainCredentialRequest(
            purpose=credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER, provider="p1"
        )
        explained = await public(auth, ALICE).ExplainCredential(request_)
        assert '"k1"' in explained.links[0].detail
        with refused(StatusCode.FAILED_PRECONDITION, "KEY_UNAVAILABLE") as refusal:
            await rotate(auth)
        assert refusal.metadata == {"key_id": "k1"}

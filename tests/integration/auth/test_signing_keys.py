"""Signing keys: published before they sign, kept while what they signed is valid, with several replicas."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from coxswain.auth.v1 import principal_pb2
from services.auth.domain import SigningKeyState
from services.auth.keys.ring import KeyRing
from services.auth.keys.signing import SigningKeys
from services.auth.keys.vault import Vault
from services.auth.repositories.signing_keys import SigningKeyRepository
from services.common.db.database import Database
from services.common.grpc.call import acting_as
from services.common.identity.principal import CredentialKind, Principal, Role
from services.common.periodic import every
from tests.integration.auth.support import internal, token_of
from tests.support.harness import ALICE, serve_services
from tests.support.service_tables import make_service_tables

LIFETIME, PUBLISH, RETIRE = timedelta(hours=2), timedelta(minutes=15), timedelta(minutes=15)
PRINCIPAL_LIFETIME = timedelta(minutes=5)
VERIFIER_REFRESH = timedelta(minutes=5)
STEP = timedelta(minutes=1)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
async def databases(database_url: str) -> AsyncIterator[list[Database]]:
    make_service_tables("auth", database_url)
    opened = [Database(database_url, "auth") for _ in range(3)]
    yield opened
    for database in opened:
        await database.close()


async def replicas(databases: list[Database], clock: Clock) -> list[SigningKeys]:
    made = []
    for database in databases:
        vault = Vault(database, KeyRing([("k1", b"1" * 32)]))
        await vault.start()
        made.append(SigningKeys(database, vault, lifetime=LIFETIME, publish=PUBLISH, retire=RETIRE, clock=clock))
    return made


def principal(clock: Clock) -> Principal:
    return Principal(
        subject="dev|ann",
        group_id="sales",
        role=Role.OPERATOR,
        platform_admin=False,
        credential_kind=CredentialKind.DEV,
        session_id="",
        execution_id="",
        expires_at=clock.now + PRINCIPAL_LIFETIME,
    )


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def test_no_token_is_ever_refused_while_keys_rotate(databases: list[Database]) -> None:
    clock = Clock()
    auths = await replicas(databases, clock)
    for auth in auths:
        await auth.refresh()
    # Each verifier asks one replica, now and then; between two readings it knows only what it read.
    known: list[Mapping[str, Ed25519PublicKey]] = [dict(auths[index % 3].published) for index in range(5)]
    alive: list[tuple[datetime, str]] = []
    checked: set[str] = set()
    started = clock.now
    for step in range(int(timedelta(hours=5) / STEP)):
        clock.now = started + step * STEP
        # Replicas look at the database one after another, never at the same moment.
        await auths[step % 3].refresh()
        for index in range(5):
            if (step + index) % int(VERIFIER_REFRESH / STEP) == 0:
                known[index] = dict(auths[(index + step) % 3].published)
        alive = [(expires, kid) for expires, kid in alive if expires > clock.now]
        for auth in auths:
            token = auth.signed(principal(clock)).token
            kid = kid_of(token)
            alive.append((clock.now + PRINCIPAL_LIFETIME, kid))
            if kid not in checked:
                jwt.decode(token, known[0][kid], algorithms=["EdDSA"], options={"verify_exp": False})
                checked.add(kid)
        for _, kid in alive:
            assert all(kid in keys for keys in known), f"a verifier lacks a key after {clock.now - started}"
    assert len(checked) == 3


async def test_replicas_that_rotate_at_once_take_each_step_once(databases: list[Database]) -> None:
    clock = Clock()
    auths = await replicas(databases, clock)
    seen: list[int] = []
    for _ in range(12):
        await asyncio.gather(*(auth.refresh() for auth in auths * 3))
        async with databases[0].read() as connection:
            states = [key.state for key in await SigningKeyRepository(connection).all()]
        assert states.count(SigningKeyState.ACTIVE) == 1
        assert states.count(SigningKeyState.PENDING) <= 1
        seen.append(len(states))
        clock.now += timedelta(minutes=30)
    assert max(seen) <= 3
    assert len({auth.signed(principal(clock)).token for auth in auths}) >= 1
    assert len({kid_of(auth.signed(principal(clock)).token) for auth in auths}) == 1


async def test_private_keys_are_stored_sealed(databases: list[Database]) -> None:
    clock = Clock()
    [auth, *_] = await replicas(databases, clock)
    await auth.refresh()
    assert auth._active is not None
    private = auth._active[1].private_bytes_raw()
    async with databases[0].read() as connection:
        [key] = await SigningKeyRepository(connection).all()
    assert private not in key.sealed_private_key.blob


async def test_a_replica_keeps_trying_when_the_database_fails(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    [auth, *_] = await replicas(databases, Clock())
    refreshed, tried = asyncio.Event(), 0
    refresh = auth.refresh

    async def failing_at_first() -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise OSError("the database is away")
        await refresh()
        refreshed.set()

    monkeypatch.setattr(auth, "refresh", failing_at_first)
    task = asyncio.create_task(every(0.001, auth.refresh, name="signing_keys"))
    await asyncio.wait_for(refreshed.wait(), 60)
    task.cancel()
    assert auth.published


async def test_a_principal_of_one_replica_is_accepted_by_another(tmp_path: Path, postgres_url: str) -> None:
    async with (
        serve_services(tmp_path, database_url=postgres_url) as first,
        serve_services(tmp_path, database_url=postgres_url) as second,
    ):
        for one, other in ((first, second), (second, first)):
            with acting_as(await token_of(one, ALICE)):
                me = await internal(other, "models").WhoAmI(principal_pb2.WhoAmIRequest())
            assert me.principal.subject == "dev|alice"

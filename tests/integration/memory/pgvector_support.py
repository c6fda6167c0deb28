"""Memory beside a PostgreSQL server of somebody else's, and backends that are databases there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from coxswain.memory.v1 import memory_backend_pb2 as backend_pb
from services.common.clock import utc_now
from services.common.egress import AddressPolicy
from services.memory.domain.backends import MemoryBackend, PgvectorConfig, TlsMode
from services.memory.settings import MemorySettings
from services.memory.stores.pgvector.answer_room import AnswerRoom
from services.memory.stores.pgvector.connector import Connector, prepare
from services.memory.stores.pgvector.database import BackendDatabase
from services.memory.stores.pgvector.logins import Login
from services.memory.stores.pgvector.pools import ConnectionPools, PoolLimits
from services.memory.stores.pgvector.search import PgvectorSearch
from services.memory.stores.pgvector.store import PgvectorMemoryStore
from services.memory.stores.pgvector.upgrades import upgrade_tables
from services.memory.stores.sweep_turns import SweepTurns
from tests.integration.memory.databricks_support import backends_stub
from tests.integration.memory.support import serve_memory
from tests.support.harness import Harness
from tests.support.postgres_front import PostgresFront, postgres_front

PASSWORD = "marked-database-password-17"
USER = "postgres"


def socket_of(url: str) -> str:
    """Return the socket of the server that a URL leads to."""
    return f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"


def database_of(url: str) -> str:
    """Return the database that a URL leads to."""
    return urlsplit(url).path.lstrip("/")


def config_of(url: str, **fields: Any) -> PgvectorConfig:
    """Return the configuration of a database, as far as what does not go over a front needs it."""
    values: dict[str, Any] = {
        "host": "db.example.com",
        "port": 5432,
        "database": database_of(url),
        "schema": "coxswain_memory",
        "user": USER,
        "tls_mode": TlsMode.DISABLE,
        "ca_certificates": "",
        "password_secret": "postgresql/password",
        **fields,
    }
    return PgvectorConfig(**values)


def backend_of(url: str, group_id: str = "sales", backend_id: str = "b1") -> MemoryBackend:
    """Return a backend in a database."""
    now = utc_now()
    return MemoryBackend(backend_id, group_id, "database", None, frozenset(), now, now, pgvector=config_of(url))


class FixedLogins:
    """Gives one login after the other, the last one for ever."""

    def __init__(self, *passwords: str) -> None:
        self.passwords = list(passwords) or [PASSWORD]
        self.group_id = "sales"

    async def find(self, config: PgvectorConfig) -> Login:
        password = self.passwords[0] if len(self.passwords) == 1 else self.passwords.pop(0)
        return Login(config.user, password, group_id=self.group_id)

    def forget(self, config: PgvectorConfig) -> None:
        """There is nothing to forget."""


class DirectConnector:
    """Connects to the socket of a test's server, past addresses, TLS and passwords."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self, config: PgvectorConfig, _login: Login, *, unlimited: bool = False) -> Any:
        connection = await asyncpg.connect(self.url)
        return connection, await prepare(connection, config)


def connector_here(*, answer_bytes: int = 2**20, held_bytes: int = 2**24, **options: Any) -> Connector:
    """Return what opens connections to fronts on this machine."""
    policy = AddressPolicy([ip_network("127.0.0.0/8"), ip_network("::1/128")], setting="NETWORKS")
    room = AnswerRoom(answer_bytes=answer_bytes, all_bytes=held_bytes)
    return Connector(policy, room, **{"connect_seconds": 30.0, "statement_seconds": 30.0, **options})


@contextlib.asynccontextmanager
async def pools_of(url: str, logins: FixedLogins | None = None, **options: Any) -> AsyncIterator[ConnectionPools]:
    """Open pools of connections to a test's server."""
    limits = {"connections": 2, "databases": 2, "group_databases": 2, "idle_seconds": 60.0, "wait_seconds": 5.0}
    chosen = {name: options.pop(name, value) for name, value in limits.items()}
    connector: Any = options.pop("connector", None) or DirectConnector(url)
    pools = ConnectionPools(cast("Any", logins or FixedLogins()), connector, PoolLimits(**chosen), **options)
    try:
        yield pools
    finally:
        await pools.close()


def store_in(pools: ConnectionPools, backend: MemoryBackend, *, exact_rows: int) -> PgvectorMemoryStore:
    """Return a store that builds no indexes, and removes what has expired with every save."""
    database = BackendDatabase(backend, pools)
    search = PgvectorSearch(database, lambda _namespace: None, exact_rows=exact_rows)
    return PgvectorMemoryStore(database, search, SweepTurns(0))


@contextlib.asynccontextmanager
async def front_of(url: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresFront]:
    """Serve a front of a server; the operator's environment holds the password for it."""
    async with postgres_front(socket_of(url), directory, **{USER: PASSWORD}) as front:
        monkeypatch.setenv("POSTGRESQL_PASSWORD", PASSWORD)
        monkeypatch.setenv("POSTGRESQL_BASE_URL", f"postgresql://localhost:{front.port}")
        yield front


@contextlib.asynccontextmanager
async def serve_with_databases(directory: Path, **settings: Any) -> AsyncIterator[Harness]:
    """Serve memory, whose groups may have databases on this machine."""
    values: Any = {"egress_allowed_networks": ["127.0.0.0/8", "::1/128"], **settings}
    async with serve_memory(directory, settings=MemorySettings(**values)) as (harness, _):
        yield harness


def database_message(front: PostgresFront, url: str, name: str = "database", **fields: Any) -> backend_pb.MemoryBackend:
    """Return the configuration of a backend in a database."""
    values: dict[str, Any] = {
        "host": "localhost",
        "port": front.port,
        "database": database_of(url),
        "user": USER,
        "ca_certificates": front.certificate,
        **fields,
    }
    return backend_pb.MemoryBackend(name=name, pgvector=backend_pb.PgvectorBackendConfig(**values))


async def make_tables(url: str) -> None:
    """Make in a database what a backend keeps there."""
    config = config_of(url)
    owner = await asyncpg.connect(url)
    try:
        await owner.execute("CREATE EXTENSION vector; CREATE SCHEMA coxswain_memory")
    finally:
        await owner.close()

    async def connect() -> Any:
        connection = await asyncpg.connect(url)
        await prepare(connection, config)
        return connection

    await upgrade_tables(connect)


async def use_database(
    harness: Harness, message: backend_pb.MemoryBackend, *bearers: str, provision: bool = True
) -> list[str]:
    """Create, provision and activate a backend for each caller's group; return their ids."""
    ids = []
    for bearer in bearers:
        backends = backends_stub(harness, bearer)
        request = backend_pb.CreateMemoryBackendRequest(backend=message)
        created = (await backends.CreateMemoryBackend(request)).backend
        if provision:
            async for _ in backends.ProvisionMemoryBackend(backend_pb.ProvisionMemoryBackendRequest(id=created.id)):
                pass
        await backends.ActivateMemoryBackend(backend_pb.ActivateMemoryBackendRequest(id=created.id))
        ids.append(created.id)
    return ids

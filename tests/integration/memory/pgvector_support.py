"""Memory beside a PostgreSQL server of somebody else's, and backends that are databases there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from coxswain.memory.v1 import memory_backend_pb2 as backend_pb
from services.memory.domain.backends import PgvectorConfig, TlsMode
from services.memory.settings import MemorySettings
from services.memory.stores.pgvector.connector import prepare
from services.memory.stores.pgvector.provisioning import upgrade_tables
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
    config = PgvectorConfig("", 0, "", "coxswain_memory", "", TlsMode.DISABLE, "", "")
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

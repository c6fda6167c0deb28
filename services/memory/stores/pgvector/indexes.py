"""HNSW indexes: one for each namespace that is large, over its own rows alone.

An index of many namespaces would find the nearest of all of them, and lose most to the filter by group and crew. Those
of one namespace hold nobody else's rows, and small namespaces, which are most, need none.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import structlog
from cachetools import TTLCache

from services.common.background import BackgroundTasks
from services.memory.domain.backends import MemoryBackend
from services.memory.domain.namespaces import NamespaceInfo
from services.memory.domain.records import MemoryKind
from services.memory.stores.pgvector.connector import required
from services.memory.stores.pgvector.failures import explained
from services.memory.stores.pgvector.pools import ConnectionPools, config_of
from services.memory.tables import kind_of_number, records

logger = structlog.get_logger(__name__)

_HALVES: Final = (0, 7)
"""The version of pgvector since which there are vectors of half the size."""
_HEX = re.compile(r"[0-9a-f]{64}")
_BUILT_AT_ONCE: Final = 8
"""Indexes that are built at the same time, each for another group: its own server does the work."""
_KEPT: Final = 10_000
_AGAIN_SECONDS: Final = 600.0
"""How long an index is taken to be there, or to be impossible, before it is looked at again."""


def has_halves(version: tuple[int, ...]) -> bool:
    """Return whether indexes hold vectors of half the size; what they find is compared in full again."""
    return version >= _HALVES


def indexed_dimensions(version: tuple[int, ...]) -> int:
    """Return the most components of vectors that an index can hold."""
    return 4000 if has_halves(version) else 2000


@dataclass(frozen=True, slots=True)
class NamespaceIndex:
    """The index of one namespace."""

    namespace_id: str
    kind: MemoryKind
    dimension: int

    @property
    def name(self) -> str:
        """Its name: indexes are in the schema of their table."""
        return f"hnsw_{self.namespace_id[:40]}_{self.dimension}"

    def statement(self, version: tuple[int, ...]) -> str:
        """Return the statement that builds it while others write."""
        # Names and ids cannot be parameters of it.
        assert _HEX.fullmatch(self.namespace_id)
        kind = "halfvec" if has_halves(version) else "vector"
        return (
            f"CREATE INDEX CONCURRENTLY {self.name} ON {records[self.kind].name} "
            f"USING hnsw ((embedding::{kind}({self.dimension})) {kind}_ip_ops) "
            f"WHERE namespace_id = '{self.namespace_id}' AND vector_dims(embedding) = {self.dimension}"
        )


async def build_index(connection: "asyncpg.Connection[Any]", index: NamespaceIndex, version: tuple[int, ...]) -> bool:
    """Build an index that is not there, on a connection without limits; return whether this call did."""
    if index.dimension > indexed_dimensions(version):
        return False
    # One that another process builds is left to it.
    if not await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", index.name):
        return False
    valid = await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", index.name)
    if valid:
        return False
    if valid is not None:
        # What an interrupted building left: it is kept up to date, and never used.
        await connection.execute(f"DROP INDEX CONCURRENTLY {index.name}")
    await connection.execute(index.statement(version))
    return True


async def large_namespaces(connection: "asyncpg.Connection[Any]", group_id: str, rows: int) -> Sequence[NamespaceIndex]:
    """Return the indexes that a group's namespaces of more than so many records need.

    Rows of namespaces that something else has written, and that are none, need nothing.
    """
    found = await connection.fetch(
        "SELECT id, kind, embedding_dimension FROM namespaces WHERE group_id = $1 AND record_count > $2 ORDER BY id",
        group_id,
        rows,
    )
    kinds = [kind_of_number(row["kind"]) for row in found]
    return [
        NamespaceIndex(row["id"], kind, row["embedding_dimension"])
        for row, kind in zip(found, kinds, strict=True)
        if kind is not None and _HEX.fullmatch(row["id"]) and row["embedding_dimension"] > 0
    ]


class IndexKeeper:
    """Builds the indexes that searches miss in the background, one at a time for each group."""

    def __init__(self, pools: ConnectionPools, *, build_seconds: float) -> None:
        """`build_seconds` bounds what one index may take."""
        self._pools = pools
        self._build_seconds = build_seconds
        self._known: TTLCache[tuple[str, str], bool] = TTLCache(_KEPT, _AGAIN_SECONDS)
        self._background = BackgroundTasks()
        self._building: set[str] = set()

    def need(self, backend: MemoryBackend, namespace: NamespaceInfo) -> None:
        """Have the index of a large namespace built, if it is not there."""
        index = NamespaceIndex(namespace.key.id, namespace.key.kind, namespace.space.dimension)
        known = (backend.id, index.name)
        if known in self._known or backend.group_id in self._building or len(self._building) >= _BUILT_AT_ONCE:
            return
        self._known[known] = True
        self._building.add(backend.group_id)
        # With the identity of the call that misses it: the task takes its context along.
        self._background.start(self._build(backend, index))

    async def _build(self, backend: MemoryBackend, index: NamespaceIndex) -> None:
        config = config_of(backend)
        try:
            async with asyncio.timeout(self._build_seconds):
                login = await self._pools.logins.find(config)
                with explained(config, login.user):
                    connection, extension = await self._pools.connector.open(config, login, unlimited=True)
                    try:
                        built = await build_index(connection, index, required(extension, config).version)
                    finally:
                        await self._pools.connector.close(connection)
            if built:
                logger.info("vector_index_built", kind=index.kind.name, dimension=index.dimension)
        except Exception as error:  # noqa: BLE001 - searches go on without it; what is wrong, Verify says
            logger.warning("vector_index_not_built", kind=index.kind.name, error_type=type(error).__name__)
        finally:
            self._building.discard(backend.group_id)

    async def close(self) -> None:
        """Stop building."""
        await self._background.stop()

"""The rows that tell of each namespace its embedding space, version and size, within a caller's transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.memory.domain import EmbeddingSpace, MemoryKind, NamespaceInfo, NamespaceKey
from services.memory.stores.base import embedding_mismatch
from services.memory.tables import namespaces

_NAMESPACE = select(namespaces).where(
    namespaces.c.id == bindparam("namespace_id"), namespaces.c.group_id == bindparam("owner_group")
)


async def claim(connection: AsyncConnection, key: NamespaceKey, space: EmbeddingSpace, now: datetime) -> int:
    """Return the version of a write, with the namespace's row locked and its space agreed on.

    Raises:
        FailedPrecondition: the namespace has another embedding space.
    """
    create: Any = (sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert)(namespaces)
    await connection.execute(
        create.values(
            id=key.id,
            group_id=key.group_id,
            crew_id=key.memory_id,
            kind=int(key.kind),
            embedding_model=space.model,
            embedding_dimension=space.dimension,
            version=0,
            removal_version=0,
            record_count=0,
            created_at=now,
        ).on_conflict_do_nothing()
    )
    claimed = (
        await connection.execute(
            update(namespaces)
            .where(namespaces.c.id == key.id)
            .values(version=namespaces.c.version + 1)
            .returning(namespaces.c.version, namespaces.c.embedding_model, namespaces.c.embedding_dimension)
        )
    ).one()
    agreed = EmbeddingSpace(claimed.embedding_model, claimed.embedding_dimension)
    if agreed.dimension == 0:
        await connection.execute(
            update(namespaces)
            .where(namespaces.c.id == key.id)
            .values(embedding_model=space.model, embedding_dimension=space.dimension)
        )
    elif agreed != space:
        raise embedding_mismatch(agreed, space.model, space.dimension)
    return int(claimed.version)


async def read_namespace(connection: AsyncConnection, key: NamespaceKey) -> NamespaceInfo | None:
    """Return a namespace, or None when it was never written to, or was cleared since."""
    parameters = {"namespace_id": key.id, "owner_group": key.group_id}
    row = (await connection.execute(_NAMESPACE, parameters)).one_or_none()
    return _namespace_info(**row._asdict()) if row is not None else None


async def fetch_namespace(database: Database, key: NamespaceKey) -> NamespaceInfo | None:
    """Return what `read_namespace` returns, outside of any transaction."""
    rows = await database.fetch(_NAMESPACE, {"namespace_id": key.id, "owner_group": key.group_id})
    return _namespace_info(**rows[0]) if rows else None


async def list_namespaces(
    connection: AsyncConnection, group_id: str, limit: int, after: tuple[str, int] | None
) -> Sequence[NamespaceInfo]:
    """Return a group's namespaces after (crew id, kind), in that order."""
    order = (namespaces.c.crew_id, namespaces.c.kind)
    statement = select(namespaces).where(namespaces.c.group_id == group_id, namespaces.c.embedding_dimension > 0)
    if after is not None:
        statement = statement.where(tuple_(*order) > tuple_(*after))
    rows = await connection.execute(statement.order_by(*order).limit(limit))
    return [info for row in rows if (info := _namespace_info(**row._asdict())) is not None]


async def removed_since(connection: AsyncConnection, key: NamespaceKey, version: int) -> bool:
    """Tell whether records were taken away after a version."""
    removal = await connection.scalar(select(namespaces.c.removal_version).where(namespaces.c.id == key.id))
    return removal is None or removal > version


async def raise_version(connection: AsyncConnection, namespace_id: str) -> int | None:
    """Raise a namespace's version, which locks it until the transaction ends; None when there is none."""
    statement = update(namespaces).where(namespaces.c.id == namespace_id).values(version=namespaces.c.version + 1)
    version: int | None = await connection.scalar(statement.returning(namespaces.c.version))
    return version


async def record_addition(connection: AsyncConnection, namespace_id: str, added: int) -> None:
    """Note that records were added."""
    if added:
        await connection.execute(
            update(namespaces)
            .where(namespaces.c.id == namespace_id)
            .values(record_count=namespaces.c.record_count + added)
        )


async def record_removal(connection: AsyncConnection, namespace_id: str, version: int | None, removed: int) -> None:
    """Note that the write of a version took records away."""
    if removed:
        await connection.execute(
            update(namespaces)
            .where(namespaces.c.id == namespace_id)
            .values(record_count=namespaces.c.record_count - removed, removal_version=version)
        )


async def record_clearing(connection: AsyncConnection, namespace_id: str, version: int) -> None:
    """Note that nothing is left, and let the next write choose a space.

    The row stays: its version must never be used for other contents.
    """
    await connection.execute(
        update(namespaces)
        .where(namespaces.c.id == namespace_id)
        .values(embedding_model="", embedding_dimension=0, record_count=0, removal_version=version)
    )


def _namespace_info(
    *,
    group_id: str,
    crew_id: str,
    kind: int,
    embedding_model: str,
    embedding_dimension: int,
    record_count: int,
    version: int,
    **_rest: object,
) -> NamespaceInfo | None:
    """Return the namespace of a row; None for one without an embedding space: it was cleared."""
    if not embedding_dimension:
        return None
    key = NamespaceKey(group_id, crew_id, MemoryKind(kind))
    return NamespaceInfo(key, EmbeddingSpace(embedding_model, embedding_dimension), record_count, version)

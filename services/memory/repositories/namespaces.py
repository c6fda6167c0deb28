"""Rows of namespaces: embedding space, version and size of each."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import bindparam, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.access import DatabaseAccess
from services.common.db.point_reads import PointRead
from services.common.db.upsert import insert_ignore
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.domain.vectors import EmbeddingSpace, embedding_mismatch
from services.memory.tables import KindNumber, namespaces

_NAMESPACE = select(namespaces).where(
    namespaces.c.id == bindparam("namespace_id"), namespaces.c.group_id == bindparam("owner_group")
)


class NamespaceRepository:
    """The namespaces of every group; a write holds its namespace's row until the transaction ends."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def claim(self, key: NamespaceKey, space: EmbeddingSpace, now: datetime, crew_name: str = "") -> int:
        """Return the version of a write, with the namespace's row locked and its space agreed on.

        A crew's name is kept with the namespace; an empty one leaves it as it is.

        Raises:
            FailedPrecondition: the namespace has another embedding space.
        """
        first = {
            "id": key.id,
            "group_id": key.group_id,
            "crew_id": key.memory_id,
            "kind": key.kind,
            "embedding_model": space.model,
            "embedding_dimension": space.dimension,
            "version": 0,
            "removal_version": 0,
            "record_count": 0,
            "created_at": now,
        }
        await insert_ignore(self._connection, namespaces, first)
        named = {"crew_name": crew_name} if crew_name else {}
        claimed = (
            await self._connection.execute(
                update(namespaces)
                .where(namespaces.c.id == key.id)
                .values(version=namespaces.c.version + 1, **named)
                .returning(namespaces.c.version, namespaces.c.embedding_model, namespaces.c.embedding_dimension)
            )
        ).one()
        agreed = EmbeddingSpace(claimed.embedding_model, claimed.embedding_dimension)
        if agreed.dimension == 0:
            await self._connection.execute(
                update(namespaces)
                .where(namespaces.c.id == key.id)
                .values(embedding_model=space.model, embedding_dimension=space.dimension)
            )
        elif agreed != space:
            raise embedding_mismatch(agreed, space.model, space.dimension)
        return int(claimed.version)

    async def get(self, key: NamespaceKey) -> NamespaceInfo | None:
        """Return a namespace, or None when it was never written to, or was cleared since."""
        parameters = {"namespace_id": key.id, "owner_group": key.group_id}
        row = (await self._connection.execute(_NAMESPACE, parameters)).one_or_none()
        return _namespace_info(**row._asdict()) if row is not None else None

    async def page(self, group_id: str, limit: int, after: tuple[str, MemoryKind] | None) -> Sequence[NamespaceInfo]:
        """Return a group's namespaces after (memory id, kind), in that order; without those of kinds there are not."""
        order = (namespaces.c.crew_id, namespaces.c.kind)
        statement = select(namespaces).where(
            namespaces.c.group_id == group_id,
            namespaces.c.embedding_dimension > 0,
            namespaces.c.kind.in_(list(MemoryKind)),
        )
        if after is not None:
            statement = statement.where(tuple_(*order) > tuple_(literal(after[0]), literal(after[1], KindNumber())))
        rows = await self._connection.execute(statement.order_by(*order).limit(limit))
        return [info for row in rows if (info := _namespace_info(**row._asdict())) is not None]

    async def hold(self, namespace_id: str) -> int | None:
        """Lock a namespace until the transaction ends, without a new version.

        Return the version of the last change that took records away, 0 when there was none; None when there is no such
        namespace.
        """
        statement = select(namespaces.c.removal_version).where(namespaces.c.id == namespace_id)
        # The lock that an UPDATE of the row takes: SQLite has none, as a transaction that writes is alone there.
        removal_version: int | None = await self._connection.scalar(statement.with_for_update(key_share=True))
        return removal_version

    async def raise_version(self, namespace_id: str) -> int | None:
        """Raise a namespace's version, which locks it until the transaction ends; None when there is none."""
        statement = update(namespaces).where(namespaces.c.id == namespace_id).values(version=namespaces.c.version + 1)
        version: int | None = await self._connection.scalar(statement.returning(namespaces.c.version))
        return version

    async def add_records(self, namespace_id: str, added: int) -> None:
        """Note that records were added."""
        if added:
            await self._connection.execute(
                update(namespaces)
                .where(namespaces.c.id == namespace_id)
                .values(record_count=namespaces.c.record_count + added)
            )

    async def remove_records(self, namespace_id: str, version: int | None, removed: int) -> None:
        """Note that the write of a version removed records."""
        if removed:
            await self._connection.execute(
                update(namespaces)
                .where(namespaces.c.id == namespace_id)
                .values(record_count=namespaces.c.record_count - removed, removal_version=version)
            )

    async def clear(self, namespace_id: str, version: int) -> None:
        """Note that nothing is left, and let the next write choose a space.

        The row stays: its version must never be used for other contents.
        """
        await self._connection.execute(
            update(namespaces)
            .where(namespaces.c.id == namespace_id)
            .values(embedding_model="", embedding_dimension=0, record_count=0, removal_version=version)
        )


def version_read(database: DatabaseAccess) -> PointRead:
    """Return the way to read a namespace's version, given its id and its group."""
    statement = select(namespaces.c.version).where(
        namespaces.c.id == bindparam("namespace_id"), namespaces.c.group_id == bindparam("owner_group")
    )
    return database.point_read(statement, ("namespace_id", "owner_group"))


async def fetch_namespace(database: DatabaseAccess, key: NamespaceKey) -> NamespaceInfo | None:
    """Return what `NamespaceRepository.get` returns, outside of any transaction: every search begins with it."""
    rows = await database.fetch(_NAMESPACE, {"namespace_id": key.id, "owner_group": key.group_id})
    return _namespace_info(**rows[0]) if rows else None


async def fetch_namespaces(
    database: DatabaseAccess, keys: Sequence[NamespaceKey]
) -> Mapping[NamespaceKey, NamespaceInfo]:
    """Return what there is of some namespaces of one group, outside of any transaction."""
    statement = select(namespaces).where(
        namespaces.c.id.in_([key.id for key in keys]), namespaces.c.group_id.in_({key.group_id for key in keys})
    )
    infos = (_namespace_info(**row) for row in await database.fetch(statement))
    return {info.key: info for info in infos if info is not None}


def _namespace_info(
    *,
    group_id: str,
    crew_id: str,
    kind: MemoryKind,
    embedding_model: str,
    embedding_dimension: int,
    record_count: int,
    version: int,
    crew_name: str,
    removal_version: int,
    **_rest: object,
) -> NamespaceInfo | None:
    """Return the namespace of a row; None for one without an embedding space: it was cleared."""
    if not embedding_dimension:
        return None
    key = NamespaceKey(group_id, crew_id, kind)
    space = EmbeddingSpace(embedding_model, embedding_dimension)
    return NamespaceInfo(key, space, record_count, version, crew_name, removal_version=removal_version)

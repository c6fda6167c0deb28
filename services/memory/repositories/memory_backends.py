"""Rows of memory backends, which of them is active, and the indexes they name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, literal, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.upsert import insert_ignore, insert_missing
from services.common.errors import AlreadyExists, NotFound
from services.common.resource_key import ResourceKey
from services.memory.domain.backends import DatabricksConfig, MemoryBackend, PgvectorConfig, RegisteredIndex
from services.memory.domain.records import MemoryKind
from services.memory.domain.scores import ScoreFormula, ScoreMeasure
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.repositories.pgvector_configs import pgvector_config, pgvector_document
from services.memory.tables import (
    KindNumber,
    active_backends,
    memory_backends,
    namespaces,
    registered_indexes,
    remote_namespaces,
)


@dataclass(frozen=True, slots=True)
class RemoteNamespace:
    """A namespace that was written to in a remote store, and the crew's name, where it was given."""

    memory_id: str
    kind: MemoryKind
    crew_name: str


class MemoryBackendRepository:
    """Every method concerns one group's own backends."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def hold(self, group_id: str) -> None:
        """Let no other transaction change the group's backends until this one has ended."""
        held = select(memory_backends.c.id).where(memory_backends.c.group_id == group_id).order_by(memory_backends.c.id)
        await self._connection.execute(held.with_for_update())

    async def add(self, backend: MemoryBackend) -> None:
        """Add a backend.

        Raises:
            AlreadyExists: the name is taken.
        """
        row = {"id": backend.id, "group_id": backend.group_id, "created_at": backend.created_at}
        if not await insert_ignore(self._connection, memory_backends, row | _changeable(backend)):
            raise _name_taken(backend.name)
        await self._register_indexes(backend)

    async def get(self, group_id: str, key: ResourceKey) -> MemoryBackend:
        """Return a backend.

        Raises:
            NotFound: the group has no backend of that id or name.
        """
        own = memory_backends.c.id == key.id if key.id else memory_backends.c.name == key.name
        found = await self._selected(and_(memory_backends.c.group_id == group_id, own), 1)
        if not found:
            raise NotFound.by_key("memory backend", key)
        return found[0]

    async def page(self, group_id: str, after_name: str | None, limit: int) -> Sequence[MemoryBackend]:
        """Return backends, sorted by name."""
        clauses = [memory_backends.c.group_id == group_id]
        if after_name is not None:
            clauses.append(memory_backends.c.name > after_name)
        return await self._selected(and_(*clauses), limit)

    async def databases(self, group_id: str, *, but: str) -> Sequence[PgvectorConfig]:
        """Return the databases that the group's backends name, apart from one backend."""
        columns = memory_backends.c
        statement = select(columns.pgvector).where(columns.group_id == group_id, columns.id != but)
        return [pgvector_config(document) for document in await self._connection.scalars(statement) if document]

    async def store(self, backend: MemoryBackend) -> None:
        """Store name, configuration and disabled kinds of a backend that exists.

        Raises:
            AlreadyExists: the name is taken.
        """
        own = memory_backends.c.id == backend.id, memory_backends.c.group_id == backend.group_id
        try:
            await self._connection.execute(update(memory_backends).where(*own).values(**_changeable(backend)))
        except IntegrityError:
            raise _name_taken(backend.name) from None
        await self._connection.execute(delete(registered_indexes).where(registered_indexes.c.backend_id == backend.id))
        await self._register_indexes(backend)

    async def remove(self, backend: MemoryBackend) -> None:
        """Remove a backend that is not active."""
        await self._connection.execute(
            delete(memory_backends).where(
                memory_backends.c.id == backend.id, memory_backends.c.group_id == backend.group_id
            )
        )

    async def activate(self, group_id: str, backend: MemoryBackend | None) -> None:
        """Make a backend the group's active one; None for the embedded default."""
        await self._connection.execute(delete(active_backends).where(active_backends.c.group_id == group_id))
        if backend is not None:
            await self._connection.execute(insert(active_backends).values(group_id=group_id, backend_id=backend.id))

    async def active(self, group_id: str) -> MemoryBackend | None:
        """Return the group's active backend, or None when it uses the embedded default."""
        found = await self._selected(active_backends.c.group_id == group_id, 1)
        return found[0] if found else None

    async def index(self, group_id: str, name: str) -> RegisteredIndex | None:
        """Return an index that one of the group's backends names, the active one first."""
        found = await self._registered(group_id, registered_indexes.c.index_name == name)
        return min(found, key=lambda index: (not index.backend.active, index.backend.id), default=None)

    async def indexes(self, group_id: str, backend: MemoryBackend | None = None) -> Sequence[RegisteredIndex]:
        """Return the indexes that the group's backends name, or those of one backend, sorted by name."""
        clauses = [] if backend is None else [registered_indexes.c.backend_id == backend.id]
        return await self._registered(group_id, *clauses)

    async def named_by_others(self, group_id: str, index: str) -> bool:
        """Return whether a backend of another group names an index, in whatever case: workspaces ignore it."""
        names = registered_indexes.c
        same = func.lower(names.index_name) == index.lower()
        statement = select(literal(1)).where(same, names.group_id != group_id).limit(1)
        return await self._connection.scalar(statement) is not None

    async def knows_group(self, group_id: str) -> bool:
        """Return whether a group has, or has had, a backend or memories here."""
        for table in (memory_backends, namespaces, remote_namespaces):
            statement = select(literal(1)).where(table.c.group_id == group_id).limit(1)
            if await self._connection.scalar(statement) is not None:
                return True
        return False

    async def note_namespace(self, backend: MemoryBackend, written: RemoteNamespace) -> None:
        """Note that a namespace was written to in a backend; one that is gone is passed over."""
        names = remote_namespaces.c
        key = {"backend_id": backend.id, "crew_id": written.memory_id, "kind": written.kind}
        row = key | {"group_id": backend.group_id, "crew_name": written.crew_name}
        try:
            new = await insert_ignore(self._connection, remote_namespaces, row)
        except IntegrityError:
            return
        if not new and written.crew_name:
            same = [names[name] == value for name, value in key.items()]
            await self._connection.execute(update(remote_namespaces).where(*same).values(crew_name=written.crew_name))

    async def note_namespaces(self, backend: MemoryBackend, memory_ids: Sequence[str], kind: MemoryKind) -> None:
        """Note many namespaces of a backend that exists; those that are noted stay as they are."""
        rows = [
            {
                "backend_id": backend.id,
                "crew_id": memory_id,
                "kind": kind,
                "group_id": backend.group_id,
                "crew_name": "",
            }
            for memory_id in memory_ids
        ]
        if rows:
            await insert_missing(self._connection, remote_namespaces, rows)

    async def noted_namespaces(
        self, backend: MemoryBackend, limit: int, after: tuple[str, MemoryKind] | None = None
    ) -> Sequence[RemoteNamespace]:
        """Return the namespaces that were written to in a backend after (memory id, kind), in that order."""
        order = remote_namespaces.c.crew_id, remote_namespaces.c.kind
        statement = select(remote_namespaces).where(remote_namespaces.c.backend_id == backend.id)
        if after is not None:
            statement = statement.where(tuple_(*order) > tuple_(literal(after[0]), literal(after[1], KindNumber())))
        rows = await self._connection.execute(statement.order_by(*order).limit(limit))
        return [RemoteNamespace(row.crew_id, row.kind, row.crew_name) for row in rows]

    async def names_of(self, backend: MemoryBackend, memory_ids: Sequence[str]) -> Mapping[tuple[str, MemoryKind], str]:
        """Return the names of crews of which some have been written to in a backend, by memory id and kind."""
        names = remote_namespaces.c
        statement = select(names.crew_id, names.kind, names.crew_name).where(
            names.backend_id == backend.id, names.crew_id.in_(memory_ids)
        )
        return {(row.crew_id, row.kind): row.crew_name for row in await self._connection.execute(statement)}

    async def _register_indexes(self, backend: MemoryBackend) -> None:
        config = backend.databricks
        if config is None or not config.indexes:
            return
        await self._connection.execute(
            insert(registered_indexes),
            [
                {
                    "backend_id": backend.id,
                    "kind": kind,
                    "group_id": backend.group_id,
                    "workspace_url": config.workspace_url,
                    "index_name": config.index_name(kind),
                }
                for kind in config.indexes
            ],
        )

    async def _registered(self, group_id: str, *clauses: ColumnElement[bool]) -> list[RegisteredIndex]:
        others = registered_indexes.alias("others")
        shared = (
            select(func.count())
            .select_from(others)
            .where(
                func.lower(others.c.index_name) == func.lower(registered_indexes.c.index_name),
                others.c.workspace_url == registered_indexes.c.workspace_url,
                others.c.group_id != registered_indexes.c.group_id,
            )
            .scalar_subquery()
        )
        statement = (
            _backends(registered_indexes.c.index_name, registered_indexes.c.kind, shared.label("sharing"))
            .join(registered_indexes, registered_indexes.c.backend_id == memory_backends.c.id)
            .where(registered_indexes.c.group_id == group_id, *clauses)
            .order_by(registered_indexes.c.index_name, registered_indexes.c.backend_id)
        )
        return [
            RegisteredIndex(row["index_name"], row["kind"], _backend(row), shared=row["sharing"] > 0)
            for row in (await self._connection.execute(statement)).mappings()
        ]

    async def _selected(self, clause: ColumnElement[bool], limit: int) -> list[MemoryBackend]:
        statement = _backends().where(clause).order_by(memory_backends.c.name).limit(limit)
        return [_backend(row) for row in (await self._connection.execute(statement)).mappings()]


def _backends(*others: ColumnElement[Any]) -> Select[Any]:
    """Return a selection of backends, of whether they are active, and of other columns."""
    return select(memory_backends, active_backends.c.backend_id.label("active_id"), *others).select_from(
        memory_backends.outerjoin(active_backends, active_backends.c.backend_id == memory_backends.c.id)
    )


def _changeable(backend: MemoryBackend) -> dict[str, Any]:
    return {
        "name": backend.name,
        "databricks": None if backend.databricks is None else _config_document(backend.databricks),
        "pgvector": None if backend.pgvector is None else pgvector_document(backend.pgvector),
        "disabled_kinds": sorted(kind.name for kind in backend.disabled_kinds),
        "made_endpoint": backend.made_endpoint,
        "updated_at": backend.updated_at,
    }


def _config_document(config: DatabricksConfig) -> dict[str, Any]:
    return {
        "workspace_url": config.workspace_url,
        "endpoint": config.endpoint,
        "catalog": config.catalog,
        "schema": config.schema,
        "indexes": {kind.name: name for kind, name in config.indexes.items()},
        "model": config.space.model,
        "dimension": config.space.dimension,
        "formula": None if config.scores is None else config.scores.formula,
        "bounds_scores": config.scores is not None and config.scores.bounds,
        "target_qps": config.target_qps,
    }


def _backend(row: Mapping[Any, Any]) -> MemoryBackend:
    document = row["databricks"]
    config = None
    if document is not None:
        config = DatabricksConfig(
            workspace_url=document["workspace_url"],
            endpoint=document["endpoint"],
            catalog=document["catalog"],
            schema=document["schema"],
            indexes={MemoryKind[name]: index for name, index in document["indexes"].items()},
            space=EmbeddingSpace(document["model"], document["dimension"]),
            # Absent from what earlier versions have stored.
            scores=_scores(document),
            target_qps=int(document["target_qps"]) if document.get("target_qps") else None,
        )
    created: datetime = row["created_at"]
    return MemoryBackend(
        id=row["id"],
        group_id=row["group_id"],
        name=row["name"],
        databricks=config,
        disabled_kinds=frozenset(MemoryKind[name] for name in row["disabled_kinds"]),
        created_at=created,
        updated_at=row["updated_at"],
        made_endpoint=row["made_endpoint"],
        pgvector=pgvector_config(row["pgvector"]) if row["pgvector"] is not None else None,
        active=row["active_id"] is not None,
    )


def _scores(document: Mapping[str, Any]) -> ScoreMeasure | None:
    formula = document.get("formula")
    return ScoreMeasure(ScoreFormula(formula), document.get("bounds_scores", False)) if formula else None


def _name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        f'your group has a memory backend named "{name}" already',
        metadata={"resource": "memory backend", "name": name},
    )

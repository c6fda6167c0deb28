"""Memory backends, which of them is active, and the indexes they name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound
from services.memory.domain import DatabricksConfig, EmbeddingSpace, MemoryBackend, MemoryKind, RegisteredIndex
from services.memory.tables import active_backends, memory_backends, registered_indexes, remote_namespaces


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a repeated request the same one."""

    subject: str
    request_id: str
    request_hash: str


Edit = Callable[[MemoryBackend], MemoryBackend]


class MemoryBackendRepository(Protocol):
    """Every method concerns one group's own backends."""

    async def create(self, backend: MemoryBackend, request: RequestKey | None) -> MemoryBackend:
        """Add a backend; a repeated request returns the first one's.

        Raises:
            AlreadyExists: the name is taken, or the request_id was used with another body.
        """
        ...

    async def get(self, group_id: str, backend_id: str) -> MemoryBackend:
        """Return a backend.

        Raises:
            NotFound: the group has none of that id.
        """
        ...

    async def page(self, group_id: str, limit: int, after_name: str | None) -> Sequence[MemoryBackend]:
        """Return backends by name."""
        ...

    async def change(self, group_id: str, backend_id: str, edit: Edit) -> MemoryBackend:
        """Change a backend, as one step, to what `edit` makes of it; id, group and time of creation stay.

        Raises:
            NotFound: the group has none of that id.
            AlreadyExists: the name is taken.
        """
        ...

    async def delete(self, group_id: str, backend_id: str, successor_id: str | None) -> None:
        """Remove a backend; an active one is followed by its successor ("" for the embedded default).

        Raises:
            NotFound: there is no such backend or successor.
            FailedPrecondition: it is active and has no successor.
        """
        ...

    async def activate(self, group_id: str, backend_id: str | None) -> None:
        """Make a backend the active one; None for the embedded default.

        Raises:
            NotFound: the group has none of that id.
        """
        ...

    async def active(self, group_id: str) -> MemoryBackend | None:
        """Return the group's active backend, or None when it uses the embedded default."""
        ...

    async def index(self, group_id: str, name: str) -> RegisteredIndex | None:
        """Return an index that one of the group's backends names, the active one first."""
        ...

    async def indexes(self, group_id: str, backend_id: str | None) -> Sequence[RegisteredIndex]:
        """Return the indexes that the group's backends name, by name."""
        ...

    async def remember_namespace(self, backend: MemoryBackend, memory_id: str, kind: MemoryKind) -> None:
        """Note that a crew has written to a backend."""
        ...

    async def remembered_namespaces(
        self, backend: MemoryBackend, limit: int, after: tuple[str, int] | None
    ) -> Sequence[tuple[str, MemoryKind]]:
        """Return which crews have written which kinds to a backend, by crew and kind."""
        ...


class SqlMemoryBackendRepository:
    """In the service's own database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, backend: MemoryBackend, request: RequestKey | None) -> MemoryBackend:
        """See `MemoryBackendRepository`."""
        try:
            async with self._database.write() as connection:
                earlier = await _by_request(connection, backend.group_id, request)
                if earlier is not None:
                    return earlier
                await connection.execute(
                    insert(memory_backends).values(
                        id=backend.id,
                        group_id=backend.group_id,
                        created_at=backend.created_at,
                        request_subject=request.subject if request else None,
                        request_id=request.request_id if request else None,
                        request_hash=request.request_hash if request else None,
                        **_changeable(backend),
                    )
                )
                await _register_indexes(connection, backend)
        except IntegrityError:
            async with self._database.read() as connection:
                earlier = await _by_request(connection, backend.group_id, request)
            if earlier is not None:
                return earlier
            raise _name_taken(backend.name) from None
        return backend

    async def get(self, group_id: str, backend_id: str) -> MemoryBackend:
        """See `MemoryBackendRepository`."""
        found = await self._selected(_own(group_id, backend_id), 1)
        if not found:
            raise NotFound.of("memory backend", backend_id)
        return found[0]

    async def page(self, group_id: str, limit: int, after_name: str | None) -> Sequence[MemoryBackend]:
        """See `MemoryBackendRepository`."""
        clauses = [memory_backends.c.group_id == group_id]
        if after_name is not None:
            clauses.append(memory_backends.c.name > after_name)
        return await self._selected(and_(*clauses), limit)

    async def change(self, group_id: str, backend_id: str, edit: Edit) -> MemoryBackend:
        """See `MemoryBackendRepository`."""
        changed: MemoryBackend | None = None
        try:
            async with self._database.write() as connection:
                await _hold(connection, group_id)
                changed = edit(await _get(connection, group_id, backend_id))
                await connection.execute(
                    update(memory_backends)
                    .where(memory_backends.c.id == backend_id, memory_backends.c.group_id == group_id)
                    .values(**_changeable(changed))
                )
                await connection.execute(
                    delete(registered_indexes).where(registered_indexes.c.backend_id == backend_id)
                )
                await _register_indexes(connection, changed)
                return await _get(connection, group_id, backend_id)
        except IntegrityError:
            raise _name_taken(changed.name if changed else "") from None

    async def delete(self, group_id: str, backend_id: str, successor_id: str | None) -> None:
        """See `MemoryBackendRepository`."""
        async with self._database.write() as connection:
            await _hold(connection, group_id)
            backend = await _get(connection, group_id, backend_id)
            if backend.active:
                if successor_id is None:
                    raise FailedPrecondition(
                        f'memory backend "{backend.name}" is the active one; name its successor in successor_id '
                        '("default" for the embedded default)',
                        reason="RESOURCE_IN_USE",
                        metadata={"resource": "memory backend", "id": backend_id, "used_by": f"group {group_id}"},
                    )
                await _activate(connection, group_id, successor_id or None)
            await connection.execute(
                delete(memory_backends).where(
                    memory_backends.c.id == backend_id, memory_backends.c.group_id == group_id
                )
            )

    async def activate(self, group_id: str, backend_id: str | None) -> None:
        """See `MemoryBackendRepository`."""
        async with self._database.write() as connection:
            await _hold(connection, group_id)
            await _activate(connection, group_id, backend_id)

    async def active(self, group_id: str) -> MemoryBackend | None:
        """See `MemoryBackendRepository`."""
        found = await self._selected(active_backends.c.group_id == group_id, 1)
        return found[0] if found else None

    async def index(self, group_id: str, name: str) -> RegisteredIndex | None:
        """See `MemoryBackendRepository`."""
        found = await self._registered(group_id, registered_indexes.c.index_name == name)
        return min(found, key=lambda index: (not index.backend.active, index.backend.id), default=None)

    async def indexes(self, group_id: str, backend_id: str | None) -> Sequence[RegisteredIndex]:
        """See `MemoryBackendRepository`."""
        clauses = [] if backend_id is None else [registered_indexes.c.backend_id == backend_id]
        return await self._registered(group_id, *clauses)

    async def remember_namespace(self, backend: MemoryBackend, memory_id: str, kind: MemoryKind) -> None:
        """See `MemoryBackendRepository`."""
        row = {"backend_id": backend.id, "crew_id": memory_id, "kind": int(kind), "group_id": backend.group_id}
        clauses = [remote_namespaces.c[name] == value for name, value in row.items()]
        try:
            async with self._database.write() as connection:
                if await connection.scalar(select(func.count()).select_from(remote_namespaces).where(*clauses)):
                    return
                await connection.execute(insert(remote_namespaces).values(**row))
        except IntegrityError:
            # Somebody else noted it at the same moment, or the backend is gone.
            return

    async def remembered_namespaces(
        self, backend: MemoryBackend, limit: int, after: tuple[str, int] | None
    ) -> Sequence[tuple[str, MemoryKind]]:
        """See `MemoryBackendRepository`."""
        crew, kind = remote_namespaces.c.crew_id, remote_namespaces.c.kind
        statement = select(crew, kind).where(remote_namespaces.c.backend_id == backend.id)
        if after is not None:
            statement = statement.where(or_(crew > after[0], and_(crew == after[0], kind > after[1])))
        async with self._database.read() as connection:
            rows = (await connection.execute(statement.order_by(crew, kind).limit(limit))).all()
        return [(row.crew_id, MemoryKind(row.kind)) for row in rows]

    async def _registered(self, group_id: str, *clauses: ColumnElement[bool]) -> list[RegisteredIndex]:
        others = registered_indexes.alias("others")
        shared = (
            select(func.count())
            .select_from(others)
            .where(
                others.c.index_name == registered_indexes.c.index_name,
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
            RegisteredIndex(row["index_name"], MemoryKind(row["kind"]), _backend(row), shared=row["sharing"] > 0)
            for row in await self._database.fetch(statement)
        ]

    async def _selected(self, clause: ColumnElement[bool], limit: int) -> list[MemoryBackend]:
        statement = _backends().where(clause).order_by(memory_backends.c.name).limit(limit)
        return [_backend(row) for row in await self._database.fetch(statement)]


def _backends(*others: ColumnElement[Any]) -> Select[Any]:
    """Return a selection of backends, of whether they are active, and of other columns."""
    return select(memory_backends, active_backends.c.backend_id.label("active_id"), *others).select_from(
        memory_backends.outerjoin(active_backends, active_backends.c.backend_id == memory_backends.c.id)
    )


def _own(group_id: str, backend_id: str) -> ColumnElement[bool]:
    return and_(memory_backends.c.group_id == group_id, memory_backends.c.id == backend_id)


async def _hold(connection: AsyncConnection, group_id: str) -> None:
    """Let no other transaction change the group's backends until this one has ended."""
    held = select(memory_backends.c.id).where(memory_backends.c.group_id == group_id).order_by(memory_backends.c.id)
    await connection.execute(held.with_for_update())


async def _get(connection: AsyncConnection, group_id: str, backend_id: str) -> MemoryBackend:
    row = (await connection.execute(_backends().where(_own(group_id, backend_id)))).mappings().one_or_none()
    if row is None:
        raise NotFound.of("memory backend", backend_id)
    return _backend(row)


async def _by_request(connection: AsyncConnection, group_id: str, request: RequestKey | None) -> MemoryBackend | None:
    if request is None:
        return None
    statement = select(memory_backends.c.id, memory_backends.c.request_hash).where(
        memory_backends.c.group_id == group_id,
        memory_backends.c.request_subject == request.subject,
        memory_backends.c.request_id == request.request_id,
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    if row.request_hash != request.request_hash:
        raise AlreadyExists.request_id(request.request_id)
    return await _get(connection, group_id, row.id)


async def _activate(connection: AsyncConnection, group_id: str, backend_id: str | None) -> None:
    if backend_id is not None:
        await _get(connection, group_id, backend_id)
    await connection.execute(delete(active_backends).where(active_backends.c.group_id == group_id))
    if backend_id is not None:
        await connection.execute(insert(active_backends).values(group_id=group_id, backend_id=backend_id))


async def _register_indexes(connection: AsyncConnection, backend: MemoryBackend) -> None:
    config = backend.databricks
    if config is None or not config.indexes:
        return
    await connection.execute(
        insert(registered_indexes),
        [
            {
                "backend_id": backend.id,
                "kind": int(kind),
                "group_id": backend.group_id,
                "workspace_url": config.workspace_url,
                "index_name": config.index_name(kind),
            }
            for kind in config.indexes
        ],
    )


def _changeable(backend: MemoryBackend) -> dict[str, Any]:
    return {
        "name": backend.name,
        "databricks": None if backend.databricks is None else _config_document(backend.databricks),
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
        active=row["active_id"] is not None,
    )


def _name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        f'your group has a memory backend named "{name}" already',
        metadata={"resource": "memory backend", "name": name},
    )


def with_made_endpoint(endpoint: str, now: datetime) -> Edit:
    """Return the change that notes the endpoint that was made for a backend ("" when it was removed)."""
    return lambda backend: replace(backend, made_endpoint=endpoint, updated_at=now)

"""Sources of tools and the lists of their tools in SQL."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, delete, func, insert, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.named_locks import lock_name
from services.common.db.upsert import insert_ignore
from services.common.errors import AlreadyExists
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.domain.tool_source import (
    ENDPOINT_TYPES,
    AcceptedTool,
    HttpApi,
    ListedTool,
    OpenApiDocument,
    SourceKind,
    ToolChange,
    ToolSource,
    ToolSourceSpec,
    source_version,
)
from services.orchestrator.tables import crew_revisions, crew_tool_sources, crews, tool_source_revisions, tool_sources

_STANDING = tool_sources.c.deleted_at.is_(None)
_KEPT_LISTS = 20
# What is accepted may hold the texts of many tools.
_WITHOUT_TOOLS = (
    *(column for column in tool_sources.c if column is not tool_sources.c.accepted),
    null().label("accepted"),
    null().label("tools"),
)


class ToolSourceRepository:
    """Sources; those that are deleted are returned only where it is said."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, source: ToolSource, subject: str) -> None:
        """Store a new source. Raises AlreadyExists: the group has one of that name."""
        row = {"id": source.id, "subject": subject, "deleted_at": None, **_columns(source)}
        if not await insert_ignore(self._connection, tool_sources, row):
            raise AlreadyExists.named("tool source", source.spec.name)

    async def get(self, group_id: str, key: ResourceKey) -> ToolSource | None:
        """Return a source with its tools."""
        return await self._one(_with_tools().where(*_named(group_id, key), _STANDING))

    async def get_deleted(self, group_id: str, key: ResourceKey) -> ToolSource | None:
        """Return the source that was created last of those that are deleted."""
        deleted = _with_tools().where(*_named(group_id, key), tool_sources.c.deleted_at.is_not(None))
        return await self._one(deleted.order_by(tool_sources.c.id.desc()).limit(1))

    async def named(self, group_id: str, names: Collection[str]) -> dict[str, ToolSource]:
        """Return the sources of a group with one of these names, by name, with their tools."""
        if not names:
            return {}
        rows = await self._connection.execute(
            _with_tools().where(tool_sources.c.group_id == group_id, tool_sources.c.name.in_(names), _STANDING)
        )
        return {row.name: _source(row) for row in rows}

    async def names(self, group_id: str) -> list[str]:
        """Return the names of the sources of a group, in their order."""
        rows = await self._connection.scalars(
            select(tool_sources.c.name)
            .where(tool_sources.c.group_id == group_id, _STANDING)
            .order_by(tool_sources.c.name)
        )
        return list(rows)

    async def versions(self, group_id: str) -> dict[str, str]:
        """Return the versions of the sources of a group, by name; see `ToolSource.version`."""
        row = tool_sources.c
        found = await self._connection.execute(
            select(row.name, row.id, row.revision, row.list_revision, row.updated_at).where(
                row.group_id == group_id, _STANDING
            )
        )
        return {name: source_version(*version) for name, *version in found}

    async def page(self, group_id: str, after_name: str | None, limit: int) -> list[ToolSource]:
        """Return sources with a name behind `after_name`, by name, without their tools."""
        query = select(*_WITHOUT_TOOLS).where(tool_sources.c.group_id == group_id, _STANDING)
        if after_name is not None:
            query = query.where(tool_sources.c.name > after_name)
        rows = await self._connection.execute(query.order_by(tool_sources.c.name).limit(limit))
        return [_source(row) for row in rows]

    async def lock_group(self, group_id: str) -> None:
        """Let nobody else add sources to a group until the transaction ends."""
        await lock_name(self._connection, f"coxswain-tool-sources {group_id}")

    async def count(self, group_id: str) -> int:
        """Return how many sources a group has, those of the operator left out."""
        counted = select(func.count()).where(
            tool_sources.c.group_id == group_id, _STANDING, tool_sources.c.from_operator.is_(False)
        )
        return int((await self._connection.execute(counted)).scalar_one())

    async def lock(self, group_id: str, source_id: str) -> ToolSource | None:
        """Return a source with its tools, and keep others from changing it until the transaction ends."""
        locked = await self._connection.execute(
            select(tool_sources.c.id)
            .where(tool_sources.c.group_id == group_id, tool_sources.c.id == source_id, _STANDING)
            .with_for_update()
        )
        return None if locked.first() is None else await self.get(group_id, ResourceKey(source_id))

    async def save(self, source: ToolSource, subject: str | None = None) -> None:
        """Store a locked source as it is now; its name stays. `subject` is who changed it, None: nobody did."""
        values = _columns(source) if subject is None else {**_columns(source), "subject": subject}
        await self._connection.execute(update(tool_sources).where(tool_sources.c.id == source.id).values(**values))

    async def add_list(self, source: ToolSource, at: datetime) -> None:
        """Store the tools of a locked source as its list of the number it says, and forget old lists."""
        documents = [to_document(tool) for tool in source.tools]
        await self._connection.execute(
            insert(tool_source_revisions).values(
                source_id=source.id, revision=source.list_revision, tools=documents, created_at=at
            )
        )
        await self._connection.execute(
            delete(tool_source_revisions).where(
                tool_source_revisions.c.source_id == source.id,
                tool_source_revisions.c.revision <= source.list_revision - _KEPT_LISTS,
            )
        )

    async def delete(self, source: ToolSource, at: datetime) -> None:
        """Take a source out of listings, and forget its lists and what it was but for its name and address."""
        await self._connection.execute(
            delete(tool_source_revisions).where(tool_source_revisions.c.source_id == source.id)
        )
        await self._connection.execute(
            update(tool_sources)
            .where(tool_sources.c.id == source.id)
            .values(
                deleted_at=at,
                list_revision=0,
                spec=to_document(_outline(source.spec)),
                accepted={},
                changes=[],
                list_warnings=[],
                list_error="",
            )
        )

    async def operators(self, after_id: str, limit: int) -> list[ToolSource]:
        """Return sources of all groups that an operator declares, without their tools, in the order of their ids."""
        rows = await self._connection.execute(
            select(*_WITHOUT_TOOLS)
            .where(tool_sources.c.from_operator, _STANDING, tool_sources.c.id > after_id)
            .order_by(tool_sources.c.id)
            .limit(limit)
        )
        return [_source(row) for row in rows]

    async def _one(self, query: Select[Any]) -> ToolSource | None:
        row = (await self._connection.execute(query)).first()
        return None if row is None else _source(row)


class CrewToolRepository:
    """Which crews use which sources, and with which tools they were stored."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def replace(self, group_id: str, crew_id: str, source_names: Iterable[str]) -> None:
        """Store which sources the newest revision of a crew uses."""
        await self._connection.execute(delete(crew_tool_sources).where(crew_tool_sources.c.crew_id == crew_id))
        rows = [
            {"group_id": group_id, "source_name": name[:64], "crew_id": crew_id} for name in sorted(set(source_names))
        ]
        if rows:
            await self._connection.execute(insert(crew_tool_sources), rows)

    async def users(
        self, group_id: str, source_name: str, limit: int | None
    ) -> list[tuple[str, dict[str, str] | None]]:
        """Return the crews that use a source, by name, with the pins of their newest revision; `limit` None: all."""
        rows = await self._connection.execute(
            select(crews.c.name, crew_revisions.c.tool_pins)
            .select_from(crew_tool_sources)
            .join(crews, crews.c.id == crew_tool_sources.c.crew_id)
            .join(
                crew_revisions,
                and_(crew_revisions.c.crew_id == crews.c.id, crew_revisions.c.revision == crews.c.revision),
            )
            .where(
                crew_tool_sources.c.group_id == group_id,
                crew_tool_sources.c.source_name == source_name,
                crews.c.deleted_at.is_(None),
            )
            .order_by(crews.c.name)
            .limit(limit)
        )
        return [(row.name, row.tool_pins) for row in rows]


def _with_tools() -> Select[Any]:
    newest = and_(
        tool_source_revisions.c.source_id == tool_sources.c.id,
        tool_source_revisions.c.revision == tool_sources.c.list_revision,
    )
    return select(tool_sources, tool_source_revisions.c.tools).outerjoin(tool_source_revisions, newest)


def _named(group_id: str, key: ResourceKey) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    named = tool_sources.c.id == key.id if key.id else tool_sources.c.name == key.name
    return tool_sources.c.group_id == group_id, named


def _columns(source: ToolSource) -> dict[str, Any]:
    return {
        "group_id": source.group_id,
        "name": source.spec.name,
        "from_operator": source.from_operator,
        "revision": source.revision,
        "spec": to_document(source.spec),
        "list_revision": source.list_revision,
        "tool_count": source.tool_count,
        "accepted": {name: to_document(tool) for name, tool in source.accepted.items()},
        "changes": [to_document(change) for change in source.changes],
        "list_warnings": list(source.list_warnings),
        "list_error": source.list_error,
        "listed_at": source.listed_at,
        "checked_at": source.checked_at,
        "created_at": source.created_at,
        "updated_at": source.updated_at,
    }


def _source(row: Row[Any]) -> ToolSource:
    return ToolSource(
        id=row.id,
        group_id=row.group_id,
        revision=row.revision,
        spec=spec_from_document(row.spec),
        tools=tuple(from_document(ListedTool, tool) for tool in row.tools or ()),
        created_at=row.created_at,
        updated_at=row.updated_at,
        listed_at=row.listed_at,
        list_error=row.list_error,
        from_operator=row.from_operator,
        checked_at=row.checked_at,
        list_revision=row.list_revision,
        tool_count=row.tool_count,
        list_warnings=tuple(row.list_warnings),
        accepted={name: from_document(AcceptedTool, tool) for name, tool in (row.accepted or {}).items()},
        changes=tuple(from_document(ToolChange, change) for change in row.changes),
    )


def _outline(spec: ToolSourceSpec) -> ToolSourceSpec:
    endpoint = spec.endpoint
    match endpoint:
        case OpenApiDocument():
            endpoint = OpenApiDocument(endpoint.base_url, url=endpoint.url)
        case HttpApi():
            endpoint = HttpApi(endpoint.base_url, ())
    return ToolSourceSpec(spec.name, spec.kind, endpoint)


def spec_from_document(document: dict[str, Any]) -> ToolSourceSpec:
    """Return the spec of a document: its kind says what its endpoint is."""
    endpoint = from_document(ENDPOINT_TYPES[SourceKind(document["kind"])], document["endpoint"])
    return from_document(ToolSourceSpec, {**document, "endpoint": endpoint})

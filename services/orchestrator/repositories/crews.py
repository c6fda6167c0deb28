"""Crews and their revisions in SQL."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.upsert import insert_ignore
from services.common.errors import AlreadyExists
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.crew import Crew, CrewSpec
from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.repositories.publications import PublicationRepository
from services.orchestrator.repositories.tool_sources import CrewToolRepository
from services.orchestrator.tables import crew_revisions, crews


class CrewRepository:
    """Crews and their revisions."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, crew: Crew, subject: str) -> None:
        """Store a new crew. Raises AlreadyExists: the group has one of that name."""
        row = {
            "id": crew.id,
            "group_id": crew.group_id,
            "name": crew.spec.name,
            "revision": crew.revision,
            "created_at": crew.created_at,
            "updated_at": crew.updated_at,
        }
        if not await insert_ignore(self._connection, crews, row):
            raise AlreadyExists.named("crew", crew.spec.name)
        await self._insert_revision(crew, subject)

    async def _insert_revision(self, crew: Crew, subject: str) -> None:
        await self._connection.execute(
            insert(crew_revisions).values(
                crew_id=crew.id,
                revision=crew.revision,
                document=to_document(crew.spec),
                memory_id=crew.memory_id,
                tool_pins=None if crew.tool_pins is None else dict(crew.tool_pins),
                subject=subject,
                created_at=crew.updated_at,
            )
        )
        await CrewToolRepository(self._connection).replace(crew.group_id, crew.id, crew.spec.tool_sources)
        await PublicationRepository(self._connection).follow(crew)

    async def get(self, group_id: str, key: ResourceKey, revision: int = 0) -> Crew | None:
        """Return a crew that is not deleted, at a revision (0: the newest)."""
        return await self._one(_existing(group_id, key, revision))

    async def find_id(self, group_id: str, key: ResourceKey) -> str:
        """Return the id of a crew that is not deleted, or "" if there is none."""
        found = select(crews.c.id).where(*_named(group_id, key), crews.c.deleted_at.is_(None))
        return await self._connection.scalar(found) or ""

    async def get_first_revision(self, group_id: str, crew_id: str) -> Crew | None:
        """Return a crew as it was created, whether or not it is deleted."""
        return await self._one(_select(1).where(crews.c.group_id == group_id, crews.c.id == crew_id))

    async def was_deleted(self, group_id: str, key: ResourceKey) -> bool:
        """Return whether the group had such a crew that is deleted."""
        deleted = select(crews.c.id).where(*_named(group_id, key), crews.c.deleted_at.is_not(None)).limit(1)
        return (await self._connection.execute(deleted)).first() is not None

    async def lock(self, group_id: str, key: ResourceKey) -> Crew | None:
        """Return a crew at its newest revision, and keep others from changing it until the transaction ends."""
        locked = await self._connection.execute(
            select(crews.c.id).where(*_named(group_id, key), crews.c.deleted_at.is_(None)).with_for_update()
        )
        row = locked.first()
        return None if row is None else await self.get(group_id, ResourceKey(row.id))

    async def add_revision(self, crew: Crew, subject: str) -> None:
        """Store the next revision of a locked crew. Raises AlreadyExists: the group has another one of its new name."""
        await self._insert_revision(crew, subject)
        try:
            await self._connection.execute(
                update(crews)
                .where(crews.c.id == crew.id)
                .values(name=crew.spec.name, revision=crew.revision, updated_at=crew.updated_at)
            )
        except IntegrityError as error:
            raise AlreadyExists.named("crew", crew.spec.name) from error

    async def delete(self, crew_id: str, at: datetime) -> None:
        """Take a crew out of listings."""
        await self._connection.execute(update(crews).where(crews.c.id == crew_id).values(deleted_at=at))
        await PublicationRepository(self._connection).remove(crew_id)

    async def page(self, group_id: str, before_id: str | None, limit: int) -> list[Crew]:
        """Return crews with an id below `before_id`, newest first."""
        query = _select(0).where(crews.c.group_id == group_id, crews.c.deleted_at.is_(None))
        if before_id is not None:
            query = query.where(crews.c.id < before_id)
        rows = await self._connection.execute(query.order_by(crews.c.id.desc()).limit(limit))
        return [_crew(columns) for columns in rows.mappings()]

    async def spec(self, crew_id: str, revision: int) -> CrewSpec:
        """Return the document of a revision that exists, whether or not the crew is deleted."""
        document = await self._connection.execute(
            select(crew_revisions.c.document).where(
                crew_revisions.c.crew_id == crew_id, crew_revisions.c.revision == revision
            )
        )
        return from_document(CrewSpec, document.scalar_one())

    async def tool_pins(self, crew_id: str, revision: int) -> dict[str, str] | None:
        """Return the hashes of the tools of sources that a revision was stored with; None when this was not kept."""
        pins = await self._connection.execute(
            select(crew_revisions.c.tool_pins).where(
                crew_revisions.c.crew_id == crew_id, crew_revisions.c.revision == revision
            )
        )
        stored: dict[str, str] | None = pins.scalar_one()
        return stored

    async def revision(self, crew_id: str, revision: int) -> tuple[int, CrewSpec] | None:
        """Return the number and document of a revision (0: the newest), whether or not the crew is deleted."""
        crew = await self._one(_select(revision).where(crews.c.id == crew_id))
        return None if crew is None else (crew.revision, crew.spec)

    async def _one(self, query: Select[Any]) -> Crew | None:
        columns = (await self._connection.execute(query)).mappings().first()
        return None if columns is None else _crew(columns)


async def read_crew(database: Database, group_id: str, key: ResourceKey, revision: int = 0) -> Crew | None:
    """Return a crew as `get` does. Every start of an execution asks: one statement needs no transaction."""
    rows = await database.fetch(_existing(group_id, key, revision))
    return _crew(rows[0]) if rows else None


def _existing(group_id: str, key: ResourceKey, revision: int) -> Select[Any]:
    return _select(revision).where(*_named(group_id, key), crews.c.deleted_at.is_(None))


def _named(group_id: str, key: ResourceKey) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return crews.c.group_id == group_id, crews.c.id == key.id if key.id else crews.c.name == key.name


def _select(revision: int) -> Select[Any]:
    return select(
        crews.c.id,
        crews.c.group_id,
        crews.c.created_at,
        crew_revisions.c.revision,
        crew_revisions.c.document,
        crew_revisions.c.memory_id,
        crew_revisions.c.tool_pins,
        crew_revisions.c.created_at.label("updated_at"),
    ).join(
        crew_revisions,
        (crew_revisions.c.crew_id == crews.c.id) & (crew_revisions.c.revision == (revision or crews.c.revision)),
    )


def _crew(columns: Mapping[Any, Any]) -> Crew:
    return Crew(
        id=columns["id"],
        group_id=columns["group_id"],
        revision=columns["revision"],
        spec=from_document(CrewSpec, columns["document"]),
        created_at=columns["created_at"],
        updated_at=columns["updated_at"],
        memory_id=columns["memory_id"],
        tool_pins=columns["tool_pins"],
    )

"""Crews and their revisions in SQL."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.crew import Crew, CrewSpec
from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.tables import crew_revisions, crews


class SqlCrews:
    """See `protocols.Crews`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, crew: Crew, subject: str) -> bool:
        """See `protocols.Crews`."""
        try:
            # A savepoint: what a taken name breaks must not be the whole transaction.
            async with self._connection.begin_nested():
                await self._connection.execute(
                    insert(crews).values(
                        id=crew.id,
                        group_id=crew.group_id,
                        name=crew.spec.name,
                        revision=crew.revision,
                        created_at=crew.created_at,
                        updated_at=crew.updated_at,
                    )
                )
        except IntegrityError:
            return False
        await self._insert_revision(crew, subject)
        return True

    async def _insert_revision(self, crew: Crew, subject: str) -> None:
        await self._connection.execute(
            insert(crew_revisions).values(
                crew_id=crew.id,
                revision=crew.revision,
                document=to_document(crew.spec),
                subject=subject,
                created_at=crew.updated_at,
            )
        )

    async def get(self, group_id: str, crew_id: str, revision: int = 0, *, deleted: bool = False) -> Crew | None:
        """See `protocols.Crews`."""
        query = _select(revision).where(crews.c.group_id == group_id, crews.c.id == crew_id)
        if not deleted:
            query = query.where(crews.c.deleted_at.is_(None))
        return await self._one(query)

    async def get_by_name(self, group_id: str, name: str, revision: int = 0) -> Crew | None:
        """See `protocols.Crews`."""
        return await self._one(
            _select(revision).where(crews.c.group_id == group_id, crews.c.name == name, crews.c.deleted_at.is_(None))
        )

    async def lock(self, group_id: str, crew_id: str) -> Crew | None:
        """See `protocols.Crews`."""
        locked = await self._connection.execute(
            select(crews.c.id)
            .where(crews.c.group_id == group_id, crews.c.id == crew_id, crews.c.deleted_at.is_(None))
            .with_for_update()
        )
        return await self.get(group_id, crew_id) if locked.first() else None

    async def add_revision(self, crew: Crew, subject: str) -> bool:
        """See `protocols.Crews`."""
        try:
            async with self._connection.begin_nested():
                await self._connection.execute(
                    update(crews)
                    .where(crews.c.id == crew.id)
                    .values(name=crew.spec.name, revision=crew.revision, updated_at=crew.updated_at)
                )
        except IntegrityError:
            return False
        await self._insert_revision(crew, subject)
        return True

    async def delete(self, crew_id: str, at: datetime) -> None:
        """See `protocols.Crews`."""
        await self._connection.execute(update(crews).where(crews.c.id == crew_id).values(deleted_at=at))

    async def page(self, group_id: str, before_id: str | None, limit: int) -> list[Crew]:
        """See `protocols.Crews`."""
        query = _select(0).where(crews.c.group_id == group_id, crews.c.deleted_at.is_(None))
        if before_id is not None:
            query = query.where(crews.c.id < before_id)
        rows = await self._connection.execute(query.order_by(crews.c.id.desc()).limit(limit))
        return [_crew(row) for row in rows]

    async def spec(self, crew_id: str, revision: int) -> CrewSpec:
        """See `protocols.Crews`."""
        document = await self._connection.execute(
            select(crew_revisions.c.document).where(
                crew_revisions.c.crew_id == crew_id, crew_revisions.c.revision == revision
            )
        )
        return from_document(CrewSpec, document.scalar_one())

    async def _one(self, query: Select[Any]) -> Crew | None:
        row = (await self._connection.execute(query)).first()
        return None if row is None else _crew(row)


def _select(revision: int) -> Select[Any]:
    return select(
        crews.c.id,
        crews.c.group_id,
        crews.c.created_at,
        crew_revisions.c.revision,
        crew_revisions.c.document,
        crew_revisions.c.created_at.label("updated_at"),
    ).join(
        crew_revisions,
        (crew_revisions.c.crew_id == crews.c.id) & (crew_revisions.c.revision == (revision or crews.c.revision)),
    )


def _crew(row: Row[Any]) -> Crew:
    return Crew(
        id=row.id,
        group_id=row.group_id,
        revision=row.revision,
        spec=from_document(CrewSpec, row.document),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )

"""Crews that other systems can call as agents, in SQL."""

import secrets
from typing import Any

from sqlalchemy import Select, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.errors import InvalidArgument
from services.orchestrator.domain.a2a import Publication
from services.orchestrator.domain.crew import Crew, CrewSpec
from services.orchestrator.domain.document import from_document
from services.orchestrator.tables import crew_revisions, crews, publications

_TENANT_BYTES = 16


class PublicationRepository:
    """The publications of groups."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def follow(self, crew: Crew) -> None:
        """Publish a locked crew, or take its publication back, as its newest revision says.

        Raises:
            InvalidArgument: it shall be the group's default, and another crew is.
        """
        wanted = crew.spec.a2a
        if not wanted.published:
            await self.remove(crew.id)
            return
        if wanted.is_default:
            await self._remove_past_defaults(crew)
        changed = (
            update(publications)
            .where(publications.c.crew_id == crew.id)
            .values(is_default=wanted.is_default, public_card=wanted.public_card)
        )
        published = insert(publications).values(
            crew_id=crew.id,
            group_id=crew.group_id,
            tenant=secrets.token_hex(_TENANT_BYTES),
            is_default=wanted.is_default,
            public_card=wanted.public_card,
            created_at=crew.updated_at,
        )
        try:
            if not (await self._connection.execute(changed)).rowcount:
                await self._connection.execute(published)
        except IntegrityError as error:
            raise InvalidArgument.field(
                "spec.a2a.is_default",
                "another published crew of your group is the default; change that one first",
                reason="CREW_INVALID",
            ) from error

    async def remove(self, crew_id: str) -> None:
        """Take the publication of a crew back, if there is one: its tenant is never used again."""
        await self._connection.execute(delete(publications).where(publications.c.crew_id == crew_id))

    async def _remove_past_defaults(self, crew: Crew) -> None:
        """Make room for a default: the release before keeps the rows of crews that it deletes or changes."""
        others = await self._connection.execute(
            select(publications.c.crew_id, crews.c.deleted_at, crew_revisions.c.document)
            .join(crews, crews.c.id == publications.c.crew_id)
            .join(
                crew_revisions,
                and_(crew_revisions.c.crew_id == crews.c.id, crew_revisions.c.revision == crews.c.revision),
            )
            .where(
                publications.c.group_id == crew.group_id,
                publications.c.is_default,
                publications.c.crew_id != crew.id,
            )
        )
        for other in others.all():
            publication = from_document(CrewSpec, other.document).a2a
            if other.deleted_at is not None or not publication.published:
                await self.remove(other.crew_id)
            elif not publication.is_default:
                await self._connection.execute(
                    update(publications).where(publications.c.crew_id == other.crew_id).values(is_default=False)
                )

    async def page(self, group_id: str, before_id: str | None, limit: int) -> list[Publication]:
        """Return publications of crews with an id below `before_id`, the newest crew first."""
        query = _select(group_id)
        if before_id is not None:
            query = query.where(publications.c.crew_id < before_id)
        rows = await self._connection.execute(query.order_by(publications.c.crew_id.desc()).limit(limit))
        return [Publication(**row) for row in rows.mappings()]


async def read_publication(database: Database, group_id: str, tenant: str) -> Publication | None:
    """Return a publication of a group. Every message asks: one statement needs no transaction."""
    rows = await database.fetch(_select(group_id).where(publications.c.tenant == tenant))
    return Publication(**rows[0]) if rows else None


async def read_first_publications(database: Database, group_id: str) -> list[Publication]:
    """Return two publications of a group at most, its default first."""
    rows = await database.fetch(_select(group_id).order_by(publications.c.is_default.desc()).limit(2))
    return [Publication(**row) for row in rows]


async def read_public_publications(database: Database, tenant: str, *, public_only: bool) -> list[Publication]:
    """Return the publication of a tenant, of any group, if there is one; `public_only`: whose card anybody may read."""
    query = _all().where(publications.c.tenant == tenant)
    if public_only:
        query = query.where(publications.c.public_card)
    return [Publication(**row) for row in await database.fetch(query)]


def _select(group_id: str) -> Select[Any]:
    return _all().where(publications.c.group_id == group_id)


def _all() -> Select[Any]:
    return select(
        publications.c.tenant,
        publications.c.group_id,
        publications.c.crew_id,
        crews.c.name.label("crew_name"),
        publications.c.is_default,
        publications.c.public_card,
        publications.c.created_at,
    ).join(crews, and_(crews.c.id == publications.c.crew_id, crews.c.deleted_at.is_(None)))

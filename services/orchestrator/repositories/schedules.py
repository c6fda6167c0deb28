"""Schedules in SQL."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.upsert import insert_ignore
from services.common.errors import AlreadyExists
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.domain.execution import ExecutionError, Start
from services.orchestrator.domain.schedule import Schedule
from services.orchestrator.tables import schedules

_STANDING = schedules.c.deleted_at.is_(None)


class ScheduleRepository:
    """Schedules; those that are deleted are returned only where it is said."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, schedule: Schedule) -> None:
        """Store a new schedule. Raises AlreadyExists: the group has one of that name."""
        if not await insert_ignore(self._connection, schedules, {"id": schedule.id, **_columns(schedule)}):
            raise AlreadyExists.named("schedule", schedule.name)

    async def get(self, group_id: str, key: ResourceKey) -> Schedule | None:
        """Return a schedule that is not deleted."""
        return await self._one(select(schedules).where(*_named(group_id, key), _STANDING))

    async def get_deleted(self, group_id: str, key: ResourceKey) -> Schedule | None:
        """Return the schedule that was created last of those that are deleted."""
        deleted = select(schedules).where(*_named(group_id, key), schedules.c.deleted_at.is_not(None))
        return await self._one(deleted.order_by(schedules.c.id.desc()).limit(1))

    async def lock(self, group_id: str, key: ResourceKey) -> Schedule | None:
        """Return a schedule, and keep others from changing it until the transaction ends."""
        return await self._one(select(schedules).where(*_named(group_id, key), _STANDING).with_for_update())

    async def page(self, group_id: str, after_name: str | None, limit: int) -> list[Schedule]:
        """Return schedules with a name behind `after_name`, by name."""
        query = select(schedules).where(schedules.c.group_id == group_id, _STANDING)
        if after_name is not None:
            query = query.where(schedules.c.name > after_name)
        rows = await self._connection.execute(query.order_by(schedules.c.name).limit(limit))
        return [_schedule(row) for row in rows]

    async def save(self, schedule: Schedule) -> None:
        """Store a locked schedule as it is now. Raises AlreadyExists: the group has another one of its new name."""
        try:
            await self._connection.execute(
                update(schedules).where(schedules.c.id == schedule.id).values(**_columns(schedule))
            )
        except IntegrityError as error:
            raise AlreadyExists.named("schedule", schedule.name) from error

    async def delete(self, schedule_id: str, at: datetime) -> None:
        """Take a schedule out of listings; it fires no more."""
        await self._connection.execute(
            update(schedules).where(schedules.c.id == schedule_id).values(deleted_at=at, next_fire_at=None)
        )

    async def find_due(self, schedule_id: str, now: datetime) -> Schedule | None:
        """Return a schedule of any group if it has to fire."""
        return await self._one(
            select(schedules).where(schedules.c.id == schedule_id, schedules.c.next_fire_at <= now, _STANDING)
        )

    async def fired(self, before: Schedule, after: Schedule) -> bool:
        """Store what firing has made of a schedule; False when another process fired it, or it was changed."""
        result = await self._connection.execute(
            update(schedules)
            .where(
                schedules.c.id == before.id,
                schedules.c.revision == before.revision,
                schedules.c.next_fire_at == before.next_fire_at,
                _STANDING,
            )
            .values(**_columns(after))
        )
        return bool(result.rowcount)

    async def fired_by_hand(self, schedule_id: str, execution_id: str) -> None:
        """Note the execution that a caller has made a schedule start."""
        await self._connection.execute(
            update(schedules).where(schedules.c.id == schedule_id).values(last_execution_id=execution_id)
        )

    async def _one(self, query: Select[Any]) -> Schedule | None:
        row = (await self._connection.execute(query)).first()
        return None if row is None else _schedule(row)


async def read_next_schedules(
    database: Database, after: tuple[datetime, str] | None, limit: int
) -> list[tuple[datetime, str]]:
    """Return when schedules of all groups fire next, and their ids: those behind `after`, longest due first."""
    query = select(schedules.c.next_fire_at, schedules.c.id).where(schedules.c.next_fire_at.is_not(None), _STANDING)
    if after is not None:
        at, schedule_id = after
        same = (schedules.c.next_fire_at == at) & (schedules.c.id > schedule_id)
        query = query.where((schedules.c.next_fire_at > at) | same)
    rows = await database.fetch(query.order_by(schedules.c.next_fire_at, schedules.c.id).limit(limit))
    return [(row["next_fire_at"], row["id"]) for row in rows]


def _named(group_id: str, key: ResourceKey) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return schedules.c.group_id == group_id, schedules.c.id == key.id if key.id else schedules.c.name == key.name


def _columns(schedule: Schedule) -> dict[str, Any]:
    return {
        "group_id": schedule.group_id,
        "subject": schedule.subject,
        "name": schedule.name,
        "cron": schedule.cron,
        "time_zone": schedule.time_zone,
        "start": to_document(schedule.start),
        "paused": schedule.paused,
        "delegate_id": schedule.delegate_id,
        "grant_id": schedule.grant_id,
        "revision": schedule.revision,
        "next_fire_at": schedule.next_fire_at,
        "last_fire_at": schedule.last_fire_at,
        "last_execution_id": schedule.last_execution_id,
        "last_error": None if schedule.last_error is None else to_document(schedule.last_error),
        "created_at": schedule.created_at,
        "updated_at": schedule.updated_at,
    }


def _schedule(row: Row[Any]) -> Schedule:
    return Schedule(
        id=row.id,
        group_id=row.group_id,
        subject=row.subject,
        name=row.name,
        cron=row.cron,
        time_zone=row.time_zone,
        start=from_document(Start, row.start),
        paused=row.paused,
        delegate_id=row.delegate_id,
        grant_id=row.grant_id,
        revision=row.revision,
        next_fire_at=row.next_fire_at,
        last_fire_at=row.last_fire_at,
        last_execution_id=row.last_execution_id,
        last_error=None if row.last_error is None else from_document(ExecutionError, row.last_error),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )

"""Schedules in SQL."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.domain.execution import ExecutionError, Start
from services.orchestrator.domain.schedule import Schedule
from services.orchestrator.tables import schedules

_STANDING = schedules.c.deleted_at.is_(None)


class SqlSchedules:
    """See `protocols.Schedules`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, schedule: Schedule) -> bool:
        """See `protocols.Schedules`."""
        try:
            # A savepoint: what a taken name breaks must not be the whole transaction.
            async with self._connection.begin_nested():
                await self._connection.execute(insert(schedules).values(id=schedule.id, **_columns(schedule)))
        except IntegrityError:
            return False
        return True

    async def get(self, group_id: str, schedule_id: str, *, deleted: bool = False) -> Schedule | None:
        """See `protocols.Schedules`."""
        query = select(schedules).where(schedules.c.group_id == group_id, schedules.c.id == schedule_id)
        return await self._one(query if deleted else query.where(_STANDING))

    async def lock(self, group_id: str, schedule_id: str) -> Schedule | None:
        """See `protocols.Schedules`."""
        query = select(schedules).where(schedules.c.group_id == group_id, schedules.c.id == schedule_id, _STANDING)
        return await self._one(query.with_for_update())

    async def page(self, group_id: str, after_name: str | None, limit: int) -> list[Schedule]:
        """See `protocols.Schedules`."""
        query = select(schedules).where(schedules.c.group_id == group_id, _STANDING)
        if after_name is not None:
            query = query.where(schedules.c.name > after_name)
        rows = await self._connection.execute(query.order_by(schedules.c.name).limit(limit))
        return [_schedule(row) for row in rows]

    async def save(self, schedule: Schedule) -> bool:
        """See `protocols.Schedules`."""
        try:
            async with self._connection.begin_nested():
                await self._connection.execute(
                    update(schedules).where(schedules.c.id == schedule.id).values(**_columns(schedule))
                )
        except IntegrityError:
            return False
        return True

    async def delete(self, schedule_id: str, at: datetime) -> None:
        """See `protocols.Schedules`."""
        await self._connection.execute(
            update(schedules).where(schedules.c.id == schedule_id).values(deleted_at=at, next_fire_at=None)
        )

    async def due(self, now: datetime, after: tuple[datetime, str] | None, limit: int) -> list[tuple[datetime, str]]:
        """See `protocols.Schedules`."""
        query = select(schedules.c.next_fire_at, schedules.c.id).where(schedules.c.next_fire_at <= now, _STANDING)
        if after is not None:
            at, schedule_id = after
            same = (schedules.c.next_fire_at == at) & (schedules.c.id > schedule_id)
            query = query.where((schedules.c.next_fire_at > at) | same)
        rows = await self._connection.execute(query.order_by(schedules.c.next_fire_at, schedules.c.id).limit(limit))
        return [(row.next_fire_at, row.id) for row in rows]

    async def find_due(self, schedule_id: str, now: datetime) -> Schedule | None:
        """See `protocols.Schedules`."""
        return await self._one(
            select(schedules).where(schedules.c.id == schedule_id, schedules.c.next_fire_at <= now, _STANDING)
        )

    async def fired(self, before: Schedule, after: Schedule) -> bool:
        """See `protocols.Schedules`."""
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

    async def _one(self, query: Select[Any]) -> Schedule | None:
        row = (await self._connection.execute(query)).first()
        return None if row is None else _schedule(row)


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

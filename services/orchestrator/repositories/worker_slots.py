"""How many executions each worker host can run, and of which release it is, in SQL."""

from collections.abc import Collection

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.upsert import insert_or_update
from services.common.release import RELEASE
from services.orchestrator.domain.queue_status import Capacity
from services.orchestrator.tables import worker_slots

_ROW = worker_slots.c


class WorkerSlotsRepository:
    """What hosts say of themselves, for those who want to know why an execution waits. Nothing else depends on it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, executor_id: str, slots: int, reserved_slots: int, group_limit: int | None) -> None:
        """Store what a host can run, which is of this release."""
        values = {"slots": slots, "reserved_slots": reserved_slots, "group_limit": group_limit, "release": RELEASE}
        await insert_or_update(
            self._connection,
            worker_slots,
            {"executor_id": executor_id, **values},
            key=("executor_id",),
            update=tuple(values),
        )

    async def remove(self, executor_ids: Collection[str]) -> None:
        """Forget hosts that have ended."""
        await self._connection.execute(delete(worker_slots).where(_ROW.executor_id.in_(executor_ids)))


async def read_can_run(database: Database, executor_id: str) -> tuple[int, int, int | None] | None:
    """Return what a host has said of itself last, in the order of `put`. Every host asks regularly."""
    statement = select(_ROW.slots, _ROW.reserved_slots, _ROW.group_limit).where(_ROW.executor_id == executor_id)
    rows = await database.fetch(statement)
    return (rows[0]["slots"], rows[0]["reserved_slots"], rows[0]["group_limit"]) if rows else None


async def read_releases(database: Database, executor_ids: Collection[str]) -> dict[str, str]:
    """Return the releases of those hosts that have said theirs, by their ids."""
    rows = await database.fetch(
        select(_ROW.executor_id, _ROW.release).where(_ROW.executor_id.in_(executor_ids), _ROW.release.is_not(None))
    )
    return {row["executor_id"]: row["release"] for row in rows}


async def read_slots_beside(database: Database, executor_id: str) -> int:
    """Return how many slots all other hosts have, those included whose death nobody has noticed yet."""
    (row,) = await database.fetch(
        select(func.coalesce(func.sum(_ROW.slots), 0).label("slots")).where(_ROW.executor_id != executor_id)
    )
    return int(row["slots"])


async def read_capacity(database: Database, executor_ids: Collection[str]) -> Capacity:
    """Return what some hosts can run together. One statement needs no transaction."""
    # A host without a limit takes more than any with one.
    unlimited = func.count() > func.count(_ROW.group_limit)
    (row,) = await database.fetch(
        select(
            func.count().label("hosts"),
            func.coalesce(func.sum(_ROW.slots), 0).label("slots"),
            func.coalesce(func.sum(_ROW.reserved_slots), 0).label("reserved_slots"),
            func.max(_ROW.group_limit).label("group_limit"),
            unlimited.label("unlimited"),
        ).where(_ROW.executor_id.in_(executor_ids))
    )
    limit = None if row["unlimited"] else row["group_limit"]
    return Capacity(row["hosts"], int(row["slots"]), int(row["reserved_slots"]), limit)

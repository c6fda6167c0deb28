"""The limit on executions of a group that have not ended."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.row_quota import check_row_quota
from services.common.identity.group_limits import GroupLimits
from services.common.quotas import check_quota
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository
from services.orchestrator.tables import executions

_QUOTA = "max_open_executions"
_WHAT = "executions that have not ended"
_REMEDY = "wait until some have ended, cancel some"
_RETRY_SECONDS = 10.0
_OPEN = executions.c.ended_at.is_(None)


async def refuse_early(database: Database, group_id: str, limits: GroupLimits) -> None:
    """Refuse another execution of a group before anything is done for it; `refuse_more` decides.

    Raises:
        ResourceExhausted: QUOTA_EXCEEDED.
    """
    if limits.max_open_executions is None:
        return
    statement = select(func.count().label("open")).where(executions.c.group_id == group_id, _OPEN)
    (row,) = await database.fetch(statement)
    check_quota(
        _QUOTA,
        limits.max_open_executions,
        row["open"],
        what=_WHAT,
        remedy=_REMEDY,
        retry_after=_RETRY_SECONDS if limits.max_open_executions else None,
    )


async def refuse_more(connection: AsyncConnection, group_id: str, limits: GroupLimits, *, ending: int = 0) -> None:
    """Refuse another execution of a group that is stored in the same transaction.

    `ending` is how many open ones have been asked to end for it: they make room.

    Raises:
        ResourceExhausted: QUOTA_EXCEEDED.
    """
    await check_row_quota(
        connection,
        _QUOTA,
        limits.max_open_executions,
        executions.c.group_id,
        group_id,
        _OPEN,
        more=1 - ending,
        what=_WHAT,
        remedy=_REMEDY,
        retry_after=_RETRY_SECONDS if limits.max_open_executions else None,
    )


async def refuse_more_drafts(connection: AsyncConnection, group_id: str, limits: GroupLimits) -> None:
    """Refuse another task of a group that waits for inputs and is stored in the same transaction.

    Those that wait count with the executions, which they are to become.

    Raises:
        ResourceExhausted: QUOTA_EXCEEDED.
    """
    if limits.max_open_executions is None:
        return
    waiting = await A2ATaskRepository(connection).count_drafts(group_id)
    await check_row_quota(
        connection,
        _QUOTA,
        limits.max_open_executions,
        executions.c.group_id,
        group_id,
        _OPEN,
        more=1 + waiting,
        what=f"{_WHAT}, beside {waiting} tasks that wait for inputs",
        remedy=_REMEDY,
        retry_after=_RETRY_SECONDS if limits.max_open_executions else None,
    )

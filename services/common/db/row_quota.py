"""Limits on how many rows a group may have."""

from typing import Any

from sqlalchemy import Column, ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.named_locks import lock_name
from services.common.quotas import check_quota


async def check_row_quota(
    connection: AsyncConnection,
    quota: str,
    limit: float | None,
    group: Column[Any],
    group_id: str,
    *conditions: ColumnElement[bool],
    what: str,
    more: int = 1,
    remedy: str = "delete some",
    retry_after: float | None = None,
) -> None:
    """Refuse `more` rows of a group, whose column `group` is, when it would have more than `limit`; None: any number.

    Who adds rows in the same transaction adds them to what was counted: others wait with their count until it ends.
    `quota` and what follows `conditions` are those of `check_quota`; `conditions` choose the rows that count.

    Raises:
        ResourceExhausted: QUOTA_EXCEEDED.
    """
    if limit is None:
        return
    await lock_name(connection, f"quota/{quota}/{group_id}")
    used = await connection.scalar(select(func.count()).select_from(group.table).where(group == group_id, *conditions))
    check_quota(quota, limit, used or 0, more=more, what=what, remedy=remedy, retry_after=retry_after)

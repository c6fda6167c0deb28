"""Calls and open streams of groups for which they are limited, over all processes."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.common.db.upsert import insert_missing, insert_or_raise, insert_or_replace
from services.common.grpc.group_traffic import Bucket

_CALLS = tables.group_calls
_STREAMS = tables.group_streams
_REPORTS = tables.traffic_reports


class GroupTrafficRepository:
    """Rows of `group_calls`, `group_streams` and `traffic_reports`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def note_report(self, process_id: str, sequence: int, now: datetime) -> bool:
        """Note what a process has told, and return whether it is new; see `TrafficShare`."""
        row = {"process_id": process_id, "sequence": sequence, "updated_at": now}
        return await insert_or_raise(self._connection, _REPORTS, row, key=("process_id",), rising="sequence")

    async def buckets(self, full: Mapping[str, float], now: datetime) -> dict[str, Bucket]:
        """Return what was left to groups, and keep others from changing it until the transaction ends.

        A group that nothing is known of has all of its burst, see `full`.
        """
        # In one order everywhere, so that no two processes wait for each other.
        rows = [{"group_id": name, "calls_left": full[name], "updated_at": now} for name in sorted(full)]
        await insert_missing(self._connection, _CALLS, rows)
        found = await self._connection.execute(
            select(_CALLS).where(_CALLS.c.group_id.in_(full)).order_by(_CALLS.c.group_id).with_for_update()
        )
        return {row.group_id: Bucket(row.calls_left, row.updated_at.timestamp()) for row in found}

    async def bucket(self, group_id: str) -> Bucket | None:
        """Return what was left to a group; None when nothing is known of it."""
        row = (await self._connection.execute(select(_CALLS).where(_CALLS.c.group_id == group_id))).one_or_none()
        return Bucket(row.calls_left, row.updated_at.timestamp()) if row else None

    async def store(self, left: Mapping[str, float], now: datetime) -> None:
        """Store what is left to groups."""
        rows = [{"group_id": name, "calls_left": left[name], "updated_at": now} for name in sorted(left)]
        await insert_or_replace(self._connection, _CALLS, rows, key=("group_id",))

    async def set_streams(self, process_id: str, streams: Mapping[str, int], now: datetime) -> None:
        """Store how many streams of groups are open in a process."""
        some = [
            {"group_id": name, "process_id": process_id, "open_streams": count, "updated_at": now}
            for name, count in sorted(streams.items())
            if count
        ]
        if some:
            await insert_or_replace(self._connection, _STREAMS, some, key=("group_id", "process_id"))
        if none := [name for name, count in streams.items() if not count]:
            await self._connection.execute(
                delete(_STREAMS).where(_STREAMS.c.process_id == process_id, _STREAMS.c.group_id.in_(none))
            )

    async def streams(self, group_ids: Sequence[str], since: datetime, but: str = "") -> dict[str, int]:
        """Return how many streams of groups are open in all processes but one, by what they have told since a time."""
        found = await self._connection.execute(
            select(_STREAMS.c.group_id, func.sum(_STREAMS.c.open_streams))
            .where(_STREAMS.c.group_id.in_(group_ids), _STREAMS.c.process_id != but, _STREAMS.c.updated_at > since)
            .group_by(_STREAMS.c.group_id)
        )
        return {group_id: int(count) for group_id, count in found}

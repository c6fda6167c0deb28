"""Adds up the calls and open streams of groups that processes tell of."""

import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from services.auth import tables
from services.auth.repositories.group_traffic import GroupTrafficRepository
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.expiry import remove_before
from services.common.grpc.group_traffic import Bucket, SharedTraffic, Traffic, burst_of
from services.common.identity.group_limits import GroupLimits

# A process that has open streams tells of them more often than that, see `services.common.grpc.group_traffic`.
_STREAMS_COUNT = timedelta(seconds=15)
# A bucket that nobody has used for so long is full.
_KEPT = timedelta(hours=1)


class SharedGroupTraffic:
    """What all processes together have left; asked by each of them once a second while limited groups call."""

    def __init__(self, database: Database, limits: Callable[[str], Awaitable[GroupLimits]]) -> None:
        """`limits` returns those of a group."""
        self._database = database
        self._limits = limits

    async def share_traffic(
        self, process_id: str, sequence: int, traffic: Sequence[Traffic]
    ) -> Sequence[SharedTraffic]:
        """Count the traffic of a process; see `TrafficShare`.

        Raises:
            Unavailable: the database does not answer.
        """
        limits = {each.group_id: await self._limits(each.group_id) for each in traffic}
        calls = {each.group_id: each.calls for each in traffic if limits[each.group_id].calls_per_minute is not None}
        now = utc_now()
        async with self._database.write() as connection:
            repository = GroupTrafficRepository(connection)
            left: dict[str, float] = {}
            if calls:
                # The answer of what is known was lost, and its calls have been counted.
                known = (
                    sequence > 0 and any(calls.values()) and not await repository.note_report(process_id, sequence, now)
                )
                buckets = await repository.buckets({name: burst_of(limits[name]) for name in calls}, now)
                for name, bucket in buckets.items():
                    bucket.refill(limits[name], now.timestamp())
                    left[name] = bucket.left - (0 if known else calls[name])
                await repository.store(left, now)
            await repository.set_streams(process_id, {each.group_id: each.open_streams for each in traffic}, now)
            streams = await repository.streams(list(limits), now - _STREAMS_COUNT, but=process_id)
        return [SharedTraffic(left.get(each.group_id), streams.get(each.group_id, 0)) for each in traffic]

    async def used(self, group_id: str, limits: GroupLimits) -> tuple[int | None, int | None]:
        """Return how many calls time has not made good yet, and how many streams are open; None: it is not counted."""
        calls = streams = None
        now = utc_now()
        async with self._database.read() as connection:
            repository = GroupTrafficRepository(connection)
            if limits.calls_per_minute is not None:
                bucket = await repository.bucket(group_id) or Bucket(burst_of(limits), now.timestamp())
                bucket.refill(limits, now.timestamp())
                calls = max(0, math.ceil(burst_of(limits) - bucket.left))
            if limits.max_open_streams is not None:
                streams = (await repository.streams([group_id], now - _STREAMS_COUNT)).get(group_id, 0)
        return calls, streams

    async def clean(self) -> None:
        """Remove what counts no more."""
        now = utc_now()
        await remove_before(self._database, tables.group_calls.c.updated_at, now - _KEPT)
        await remove_before(self._database, tables.group_streams.c.updated_at, now - _KEPT)
        await remove_before(self._database, tables.traffic_reports.c.updated_at, now - _KEPT)

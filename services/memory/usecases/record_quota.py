"""The limit on records of a group."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from services.common.errors import ResourceExhausted
from services.common.identity.principal import Principal
from services.common.quotas import check_quota
from services.memory.domain.records import MemoryKind
from services.memory.stores.base import MemoryStore

_COUNTED_AT_ONCE = 1000
_MOST_SECONDS: Final = 30.0
"""How long a save waits for those before it."""
_RETRY_SECONDS: Final = 1.0


@dataclass(slots=True, eq=False)
class _Save:
    """A save that was let in."""

    records: int
    """How many more there may be after it."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class _Count:
    """How many records there were, and the saves that it may not have seen."""

    number: int
    """Among the counts for the group, in the order in which they began; from 1."""
    used: int
    unseen: list[_Save]

    def fit(self, records: int, limit: int) -> bool:
        """Return whether there is room for so many more."""
        return self.used + sum(save.records for save in self.unseen) + records <= limit


class _Group:
    """The saves of one group into one store."""

    def __init__(self) -> None:
        self.callers = 0
        self.turn = asyncio.Lock()
        """Of the one that counts, and decides or waits; the others wait for it in the order in which they came."""
        self.saves: list[_Save] = []
        self.counts = 0
        """Those that have begun."""
        self.count: _Count | None = None
        """The last one."""

    async def recount(self, store: MemoryStore, group_id: str) -> _Count:
        """Count what is there now."""
        # First this: what is stored while records are counted is counted twice, and not left out.
        unseen = list(self.saves)
        self.counts += 1
        self.count = _Count(self.counts, await _count(store, group_id), unseen)
        return self.count

    def begin(self, records: int) -> _Save:
        """Let a save in."""
        save = _Save(records)
        if records:
            self.saves.append(save)
            if self.count is not None:
                self.count.unseen.append(save)
        return save

    def end(self, save: _Save) -> None:
        """Give the room of a save back: what it has stored is counted from now on."""
        save.ended.set()
        if save.records:
            self.saves.remove(save)


class RecordQuota:
    """Holds the saves of this process to the limit; those of other processes count when they have been stored."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str | None], _Group] = {}
        """By id and backend, those with saves."""

    async def check(
        self, principal: Principal, store: MemoryStore, records: int, replaced: Callable[[], Awaitable[int]]
    ) -> None:
        """Refuse so many records where there is no room for them now; see `room_for`.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        limit = principal.limits.max_records
        if limit is None:
            return
        used = await _count(store, principal.group_id)
        if used + records > limit and (more := records - await replaced()) > 0:
            check_quota("max_records", limit, used, more=more, what="records")

    @contextlib.asynccontextmanager
    async def room_for(
        self, principal: Principal, store: MemoryStore, records: int, replaced: Callable[[], Awaitable[int]]
    ) -> AsyncIterator[None]:
        """Hold room for as many records in the store while they are saved.

        `replaced` returns how many of them take the place of others that are there now; it is asked only where that
        decides. Where it depends on saves that came before whether there is room, they are waited for.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED, the group would have more than it may; OVERLOADED, saves that came
                before take too long for it to be known.
        """
        limit = principal.limits.max_records
        if limit is None:
            yield
            return
        place = (principal.group_id, store.backend_id)
        group = self._groups.setdefault(place, _Group())
        group.callers += 1
        try:
            save = await _let_in(group, limit, store, principal.group_id, records, replaced)
            try:
                yield
            finally:
                group.end(save)
        finally:
            group.callers -= 1
            if not group.callers:
                del self._groups[place]


async def _let_in(
    group: _Group,
    limit: int,
    store: MemoryStore,
    group_id: str,
    records: int,
    replaced: Callable[[], Awaitable[int]],
) -> _Save:
    until = asyncio.get_running_loop().time() + _MOST_SECONDS
    seen, begun = group.count, group.counts
    try:
        async with asyncio.timeout_at(until):
            await group.turn.acquire()
    except TimeoutError:
        # What only replaces needs no room.
        if await replaced() >= records:
            return group.begin(0)
        raise _congested(limit) from None
    try:
        count = group.count
        if count is not None and count is not seen and count.fit(records, limit):
            # It was counted while this one waited, and the saves that were let in meanwhile are held beside it.
            return group.begin(records)
        if count is not None and count.number <= begun:
            # What it would refuse may have room since: somebody has removed records before this save came.
            count = None
        while True:
            if count is None:
                count = await group.recount(store, group_id)
            if count.fit(records, limit):
                return group.begin(records)
            # A document that gets shorter needs no room, and gives none before it is stored.
            more = max(0, records - await replaced())
            if not more:
                return group.begin(0)
            check_quota("max_records", limit, count.used, more=more, what="records")
            if count.fit(more, limit):
                return group.begin(more)
            try:
                async with asyncio.timeout_at(until):
                    await count.unseen[0].ended.wait()
            except TimeoutError:
                raise _congested(limit) from None
            count = None
    finally:
        group.turn.release()


def _congested(limit: int) -> ResourceExhausted:
    return ResourceExhausted(
        "other calls are saving so much that it is not known yet whether your group's limit on records (max_records) "
        "leaves room for this one; try again in a moment, or save less at the same time",
        reason="OVERLOADED",
        metadata={"limit": str(limit), "counted": "records"},
        retry_after=_RETRY_SECONDS,
    )


async def _count(store: MemoryStore, group_id: str) -> int:
    used = 0
    after: tuple[str, MemoryKind] | None = None
    while True:
        found = await store.namespaces(group_id, _COUNTED_AT_ONCE, after)
        used += sum(namespace.record_count for namespace in found)
        if len(found) < _COUNTED_AT_ONCE:
            return used
        after = (found[-1].key.memory_id, found[-1].key.kind)

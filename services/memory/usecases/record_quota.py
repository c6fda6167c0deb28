"""The limit on records of a group."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from services.common.identity.principal import Principal
from services.common.quotas import check_quota
from services.memory.domain.records import MemoryKind
from services.memory.stores.base import MemoryStore

_COUNTED_AT_ONCE = 1000


@dataclass(slots=True, eq=False)
class _Save:
    """A save that is under way."""

    records: int
    """How many more there may be after it."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class RecordQuota:
    """Holds the saves of this process to the limit; those of other processes count when they have been stored."""

    def __init__(self) -> None:
        self._saves = defaultdict[str, list[_Save]](list)
        """By group, in the order in which they came."""

    @contextlib.asynccontextmanager
    async def room_for(
        self, principal: Principal, store: MemoryStore, records: int, replaced: Callable[[], Awaitable[int]]
    ) -> AsyncIterator[None]:
        """Hold room for as many records in the store while they are saved.

        `replaced` returns how many of them take the place of others; it is asked only where that decides. Where it
        depends on saves that came before whether there is room, they are waited for.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED, the group would have more than it may.
        """
        limit = principal.limits.max_records
        if limit is None:
            yield
            return
        saves = self._saves[principal.group_id]
        before, own = tuple(saves), _Save(records)
        saves.append(own)
        try:
            await _wait_for_room(limit, own, before, lambda: _count(store, principal.group_id), replaced)
            yield
        finally:
            own.ended.set()
            saves.remove(own)
            if not saves:
                del self._saves[principal.group_id]


async def _wait_for_room(
    limit: int,
    own: _Save,
    before: tuple[_Save, ...],
    count: Callable[[], Awaitable[int]],
    replaced: Callable[[], Awaitable[int]],
) -> None:
    while True:
        # First this: what is stored while records are counted is counted twice, and not left out.
        coming = [save for save in before if not save.ended.is_set()]
        used = await count()
        held = sum(save.records for save in coming)
        if used + held + own.records <= limit:
            return
        own.records -= await replaced()
        if own.records <= 0:
            return
        check_quota("max_records", limit, used, more=own.records, what="records")
        if used + held + own.records <= limit:
            return
        await coming[0].ended.wait()
        replaced = _nothing


async def _nothing() -> int:
    return 0


async def _count(store: MemoryStore, group_id: str) -> int:
    used = 0
    after: tuple[str, MemoryKind] | None = None
    while True:
        found = await store.namespaces(group_id, _COUNTED_AT_ONCE, after)
        used += sum(namespace.record_count for namespace in found)
        if len(found) < _COUNTED_AT_ONCE:
            return used
        after = (found[-1].key.memory_id, found[-1].key.kind)

"""The limit on records of a group."""

from collections.abc import Awaitable, Callable

from services.common.identity.principal import Principal
from services.common.quotas import check_quota
from services.memory.domain.records import MemoryKind
from services.memory.stores.base import MemoryStore

_COUNTED_AT_ONCE = 1000


async def check_record_quota(
    principal: Principal, store: MemoryStore, more: int, replaced: Callable[[], Awaitable[int]]
) -> None:
    """Refuse `more` records when the group would have more in the store than it may.

    `replaced` returns how many of them take the place of others; it is asked only where that decides. Calls at the same
    time do not see each other's records.

    Raises:
        ResourceExhausted: QUOTA_EXCEEDED.
    """
    limit = principal.limits.max_records
    if limit is None:
        return
    used = await _count(store, principal.group_id)
    if used + more > limit:
        check_quota("max_records", limit, used, more=more - await replaced(), what="records")


async def _count(store: MemoryStore, group_id: str) -> int:
    used = 0
    after: tuple[str, MemoryKind] | None = None
    while True:
        found = await store.namespaces(group_id, _COUNTED_AT_ONCE, after)
        used += sum(namespace.record_count for namespace in found)
        if len(found) < _COUNTED_AT_ONCE:
            return used
        after = (found[-1].key.memory_id, found[-1].key.kind)

"""Documents in stores without transactions: what is new is there before what is old is gone."""

from collections.abc import Sequence
from datetime import datetime

from services.memory.domain.filters import EVERYTHING
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Record
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.filters import parts_of
from services.memory.stores.base import MemoryStore, Switch

_SAVED_AT_ONCE = 500
_REMOVED_AT_ONCE = 1000


async def replace_in_steps(
    store: MemoryStore,
    key: NamespaceKey,
    space: EmbeddingSpace,
    document_id: str,
    parts: Sequence[Record],
    stale: Sequence[str],
    now: datetime,
    switch: Switch,
) -> None:
    """See `MemoryStore.replace_document`."""
    for start in range(0, len(parts), _SAVED_AT_ONCE):
        await store.save(key, space, parts[start : start + _SAVED_AT_ONCE], now)
    await switch(None)
    await _remove_others(store, key, document_id, stale, now, kept={part.id for part in parts})


async def remove_in_steps(
    store: MemoryStore, key: NamespaceKey, document_id: str, stale: Sequence[str], now: datetime, switch: Switch
) -> int:
    """See `MemoryStore.remove_document`."""
    removed = await _remove_others(store, key, document_id, stale, now, kept=frozenset())
    await switch(None)
    return removed


async def _remove_others(
    store: MemoryStore,
    key: NamespaceKey,
    document_id: str,
    stale: Sequence[str],
    now: datetime,
    kept: set[str] | frozenset[str],
) -> int:
    doomed = dict.fromkeys(stale)
    async for portion in store.read_through(key, parts_of(document_id), "", now, embeddings=False):
        doomed |= dict.fromkeys(record.id for _, record in portion)
    return await remove_parts(store, key, [record_id for record_id in doomed if record_id not in kept], now)


async def remove_parts(store: MemoryStore, key: NamespaceKey, ids: Sequence[str], now: datetime) -> int:
    """Remove parts by their ids, those that are not seen yet too, and return how many were seen."""
    removed = 0
    for start in range(0, len(ids), _REMOVED_AT_ONCE):
        removed += await store.delete(key, ids[start : start + _REMOVED_AT_ONCE], EVERYTHING, now)
    return removed

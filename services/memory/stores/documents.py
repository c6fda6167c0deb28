"""Documents in stores that share no transaction with their rows: what is new is there before what is old is gone."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from itertools import islice
from typing import ClassVar

from services.memory.domain.documents import part_id
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Document, Record
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.filters import parts_of
from services.memory.stores.base import MemoryStore, Switch

_SAVED_AT_ONCE = 500
_REMOVED_AT_ONCE = 1000


class SteppedRemovals:
    """Removes documents of a store by what the store does to records."""

    removes_at_once: ClassVar[bool] = False

    async def remove_document(
        self: MemoryStore,
        key: NamespaceKey,
        document_id: str,
        last_revision: int,
        stale: Iterable[str],
        now: datetime,
        switch: Switch,
    ) -> int:
        """See `MemoryStore`."""
        removed = await remove_others(self, key, document_id, last_revision, stale, now, kept=frozenset())
        await switch(None)
        return removed


class SteppedDocuments(SteppedRemovals):
    """Replaces documents in the same way, too."""

    replaces_at_once: ClassVar[bool] = False

    async def replace_document(
        self: MemoryStore,
        key: NamespaceKey,
        space: EmbeddingSpace,
        document_id: str,
        parts: Sequence[Record],
        stale: Iterable[str],
        now: datetime,
        switch: Switch,
    ) -> None:
        """See `MemoryStore`."""
        for start in range(0, len(parts), _SAVED_AT_ONCE):
            await self.save(key, space, parts[start : start + _SAVED_AT_ONCE], now)
        await switch(None)
        revision = max(part.body.document_revision for part in parts if isinstance(part.body, Document))
        await remove_others(self, key, document_id, revision, stale, now, kept={part.id for part in parts})


async def remove_others(
    store: MemoryStore,
    key: NamespaceKey,
    document_id: str,
    last_revision: int,
    stale: Iterable[str],
    now: datetime,
    kept: AbstractSet[str],
) -> int:
    """Remove what names a document as its own up to a revision, and then what may be there without being found.

    What is kept, and parts of later revisions, which others are saving, stay. Return how many were found.
    """
    found: dict[str, None] = {}
    async for portion in store.read_through(key, parts_of(document_id), "", now, embeddings=False):
        found |= {record.id: None for _, record in portion if not _is_part_after(record, last_revision)}
    removed = await remove_parts(store, key, (record_id for record_id in found if record_id not in kept), now)
    unseen = (record_id for record_id in stale if record_id not in kept and record_id not in found)
    return removed + await remove_parts(store, key, unseen, now)


def _is_part_after(record: Record, revision: int) -> bool:
    """Return whether a record is the part of a later revision, as a save that has not ended has written it."""
    body = record.body
    if not isinstance(body, Document) or body.document_revision <= revision:
        return False
    return record.id == part_id(body.parent_document_id, body.document_revision, body.chunk_index)


async def remove_parts(store: MemoryStore, key: NamespaceKey, ids: Iterable[str], now: datetime) -> int:
    """Remove parts by their ids, those that are not seen yet too, and return how many were seen."""
    removed, left = 0, iter(ids)
    while some := list(islice(left, _REMOVED_AT_ONCE)):
        removed += await store.delete(key, some, EVERYTHING, now)
    return removed

"""What is remembered of namespaces for searches, brought up to date by what changed since.

Of a namespace whose vectors do not fit the bound, one byte for each of their components is remembered.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final
from weakref import WeakValueDictionary

import numpy as np
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import Column
from services.memory.stores.sql import quantised
from services.memory.stores.sql.blocks import ROW_BYTES, VectorBlock
from services.memory.stores.sql.recent_records import RecentRecords
from services.memory.stores.sql.recent_touches import RecentTouches
from services.memory.stores.sql.removals import RecentRemovals
from services.memory.stores.sql.rows import vector_block, vector_columns
from services.memory.stores.sql.statements import (
    CHANGES_LIMIT,
    DIMENSION,
    NAMESPACE_VERSION,
    REMOVAL_VERSION,
    ROWS_IN_CHUNK,
    SINCE,
    VECTORS_IN_CHUNK,
    WRITTEN,
    changes,
    chunks,
    owned,
    owner_parameters,
    plain_chunks,
)
from services.memory.stores.sql.vectors import VectorCache
from services.memory.tables import records

COMPONENTS_IN_LOOP: Final = 1_000_000
"""Blocks of more components than these are computed with off the event loop."""


_RECORDS_SHARE: Final = 4
"""Records found lately may take this part of the bytes that vectors may, beside those."""


class RememberedBlocks:
    """Blocks by namespace, each with the version of the namespace that it holds. To be used from one event loop."""

    def __init__(self, database: Database, *, cache_bytes: int, cached_namespace_bytes: int) -> None:
        """`cache_bytes` bounds what is remembered in all, `cached_namespace_bytes` what of one namespace."""
        self._database = database
        self._cache = VectorCache(cache_bytes)
        self._removals = RecentRemovals()
        self._touches = RecentTouches()
        self.records = RecentRecords(cache_bytes // _RECORDS_SHARE)
        """Records found lately, as of the version that a search of a block has proven."""
        self.namespace_bytes = min(cached_namespace_bytes, cache_bytes)
        """Bytes of the largest namespace that is remembered."""
        # One reader fills what several searches wait for.
        self._filling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def note_removal(self, namespace_id: str, version: int, previous: int, ids: Sequence[str]) -> None:
        """Note what the committed write of a version removed; `previous` is the version of the removal before."""
        # Of what is not remembered, all rows will be read in any case.
        if namespace_id in self._cache:
            self._removals.note(namespace_id, version, previous, ids)

    def note_touch(self, namespace_id: str, version: int, ids: Sequence[str]) -> None:
        """Note which records the committed write of a version touched."""
        if namespace_id in self._cache:
            self._touches.note(namespace_id, version, ids)

    def forget(self, namespace_id: str) -> None:
        """Give up what is remembered of a namespace."""
        self._cache.drop(namespace_id)
        self._removals.forget(namespace_id)

    def get(self, key: NamespaceKey) -> tuple[int, VectorBlock] | None:
        """Return the version and the block that are remembered of a namespace, whether or not it has changed since."""
        return self._cache.get(key.id)

    def takes(self, namespace: NamespaceInfo) -> bool:
        """Return whether a namespace is small enough to be remembered, be it with quantised vectors."""
        size = bytes_of(namespace.record_count, namespace.space.dimension, as_bytes=True)
        return size <= self.namespace_bytes

    async def catch_up(self, key: NamespaceKey) -> bool:
        """Bring what is remembered of a namespace up to date by one statement; return whether there was anything to do.

        Nothing is done where that takes more: many rows have changed, or another process has removed some.
        """
        before = self._cache.get(key.id)
        async with self._filling.setdefault(key.id, asyncio.Lock()):
            remembered = self._cache.get(key.id)
            if before is None or remembered is None:
                return False
            version, block = remembered
            if version > before[0]:
                return True
            parameters = owner_parameters(key) | {SINCE: version, CHANGES_LIMIT: VECTORS_IN_CHUNK + 1}
            rows = await self._database.fetch(changes(key.kind, *vector_columns(key.kind)), parameters)
            if not rows or len(rows) > VECTORS_IN_CHUNK or rows[0][NAMESPACE_VERSION] == version:
                return False
            now, dimension = rows[0], block.dimension
            removed: Sequence[str] | None = ()
            if now[REMOVAL_VERSION] > version:
                removed = self._removals.since(key.id, version, now[REMOVAL_VERSION])
            written = [tuple(row.values()) for row in rows if row[Column.ID] is not None]
            living = int(np.count_nonzero(block.living))
            most = bytes_of(living + len(written), dimension, as_bytes=block.quantised is not None)
            if removed is None or now[DIMENSION] != dimension or most > self.namespace_bytes:
                return False
            if block.components > COMPONENTS_IN_LOOP or len(written) > 1:
                block = await asyncio.to_thread(_changed, block, key.kind, written, removed)
            else:
                block = _changed(block, key.kind, written, removed)
            self._follow(key.id, version, now[NAMESPACE_VERSION], [row for row in rows if row[WRITTEN]], removed)
            await self._put(key, now[NAMESPACE_VERSION], block)
            return True

    def _follow(
        self, namespace_id: str, before: int, version: int, written: Sequence[Mapping[str, Any]], removed: Sequence[str]
    ) -> None:
        """Keep the records found lately, but for changed ones, where it is known what every write since has changed."""
        touches = self._touches.since(namespace_id, before)
        known = {row[WRITTEN] for row in written} | self._removals.versions_since(namespace_id, before) | set(touches)
        if known.issuperset(range(before + 1, version + 1)):
            changed = [*(row[Column.ID] for row in written), *removed, *chain.from_iterable(touches.values())]
            self.records.follow(namespace_id, before, version, changed)

    async def read(self, connection: AsyncConnection, namespace: NamespaceInfo) -> tuple[int, VectorBlock]:
        """Return the namespace's rows as of its version, or newer, and which version they are of."""
        key = namespace.key
        remembered = self._cache.get(key.id)
        if remembered and remembered[0] == namespace.version:
            return remembered
        async with self._filling.setdefault(key.id, asyncio.Lock()):
            remembered = self._cache.get(key.id)
            if remembered and remembered[0] >= namespace.version:
                return remembered
            block = await self._read(connection, namespace, remembered)
            return namespace.version, await self._put(key, namespace.version, block)

    async def _put(self, key: NamespaceKey, version: int, block: VectorBlock) -> VectorBlock:
        if not self._cache.has_room_for(block):
            # Not for rows that are gone, or all would be read again by the next search.
            block = await asyncio.to_thread(block.compacted)
        self._cache.put(key.id, version, block)
        return block

    async def _read(
        self, connection: AsyncConnection, namespace: NamespaceInfo, remembered: tuple[int, VectorBlock] | None
    ) -> VectorBlock:
        """Read what was written since what is remembered, and find out what was removed; all rows otherwise."""
        key, dimension = namespace.key, namespace.space.dimension
        table = records[key.kind]
        statement = select(*vector_columns(key.kind)).where(owned(table, key))
        removed: Sequence[str] = ()
        as_bytes = self._as_bytes(namespace)
        if remembered and remembered[1].dimension == dimension:
            removed = await self._removed_since(connection, namespace, *remembered)
            block = remembered[1]
            statement = statement.where(table.c.written_version > remembered[0])
            if as_bytes:
                block = await asyncio.to_thread(block.as_bytes)
        else:
            block = vector_block(key.kind, [], dimension)
            block = (block.as_bytes() if as_bytes else block).with_room(namespace.record_count)
            remembered = None
        # Chunk by chunk: turning all rows at once to arrays would keep the interpreter from everybody else.
        async with contextlib.aclosing(plain_chunks(connection, statement, VECTORS_IN_CHUNK)) as reading:
            async for chunk in reading:
                if remembered:
                    block, removed = await asyncio.to_thread(_changed, block, key.kind, chunk, removed), ()
                else:
                    block = await asyncio.to_thread(_extended, block, key.kind, chunk)
        if removed:
            block = await asyncio.to_thread(_changed, block, key.kind, [], removed)
        return block

    def _as_bytes(self, namespace: NamespaceInfo) -> bool:
        """Return whether the vectors of a namespace have to be quantised to be remembered."""
        return bytes_of(namespace.record_count, namespace.space.dimension) > self.namespace_bytes

    async def _removed_since(
        self, connection: AsyncConnection, namespace: NamespaceInfo, version: int, block: VectorBlock
    ) -> Sequence[str]:
        """Return the ids of a block's rows that were removed after a version."""
        if namespace.removal_version <= version:
            return ()
        key = namespace.key
        known = self._removals.since(key.id, version, namespace.removal_version)
        if known is not None:
            return known
        # Another process removed some: what is not there any more is gone. Vectors need not be read for that.
        table = records[key.kind]
        stored_ids: list[bytes] = []
        async for chunk in chunks(connection, select(table.c[Column.ID]).where(owned(table, key)), ROWS_IN_CHUNK):
            stored_ids += [row[0].encode() for row in chunk]
        return await asyncio.to_thread(_missing, block, stored_ids)


def bytes_of(rows: int, dimension: int, *, as_bytes: bool = False) -> int:
    """Return the bytes that so many rows take in memory, with their vectors as they are or quantised."""
    return rows * (ROW_BYTES + (dimension + quantised.ROW_BYTES if as_bytes else 4 * dimension))


def _extended(block: VectorBlock, kind: MemoryKind, rows: Sequence[Sequence[Any]]) -> VectorBlock:
    return block.extended(vector_block(kind, rows, block.dimension))


def _changed(
    block: VectorBlock, kind: MemoryKind, written: Sequence[Sequence[Any]], removed: Sequence[str]
) -> VectorBlock:
    return block.updated(vector_block(kind, written, block.dimension), removed)


def _missing(block: VectorBlock, stored_ids: Sequence[bytes]) -> list[str]:
    own = block.ids[block.living]
    return [stored_id.decode() for stored_id in own[~np.isin(own, np.array(stored_ids, dtype="S64"))].tolist()]

"""Reading and removing former versions of the default store's records, apart from the changes that keep them."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.access import DatabaseAccess
from services.memory.domain.filters import Filter
from services.memory.domain.history import RecordVersion
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.repositories.namespaces import NamespaceRepository
from services.memory.stores.sql.history import VersionsOf
from services.memory.stores.sql.history_pruning import (
    ended_before_bytes,
    groups_to_prune,
    groups_with_versions,
    prune,
)
from services.memory.stores.sql.rows import read_records
from services.memory.stores.sql.statements import ROWS_IN_CHUNK, living
from services.memory.tables import records, versions


class SqlHistory:
    """See `VersionStore`."""

    def __init__(self, database: DatabaseAccess) -> None:
        self._database = database

    def _versions(self, connection: AsyncConnection, key: NamespaceKey) -> VersionsOf:
        return VersionsOf(connection, key, self._database.dialect)

    async def versions(
        self, key: NamespaceKey, record_id: str, chosen: Filter, since: datetime, before: int | None, limit: int
    ) -> tuple[Sequence[RecordVersion], bool]:
        """See `VersionStore`."""
        async with self._database.read() as connection:
            return await self._versions(connection, key).page(key.stored_id(record_id), chosen, since, before, limit)

    async def at(
        self, key: NamespaceKey, record_id: str, chosen: Filter, since: datetime, moment: datetime, now: datetime
    ) -> Record | None:
        """See `VersionStore`."""
        table, stored_id = records[key.kind], key.stored_id(record_id)
        clauses = living(key, chosen, microseconds(now), self._database.dialect)
        begun = func.coalesce(table.c.saved_us, table.c.created_us) <= microseconds(moment)
        async with self._database.read() as connection:
            found, _ = await read_records(connection, key, [stored_id], embeddings=False, clauses=[*clauses, begun])
            if found:
                return found[stored_id]
            version = await self._versions(connection, key).at(stored_id, chosen, since, moment)
        return version.record if version else None

    async def forget(self, key: NamespaceKey, subject: str, *, dry_run: bool) -> int:
        """See `VersionStore`."""
        if key.kind not in versions:
            return 0
        found = 0
        after: int | None = 0
        while after is not None:
            # A version never changes: it is looked for before others have to wait.
            async with self._database.read() as connection:
                places, after = await self._versions(connection, key).tied(subject, after)
            if places and not dry_run:
                async with self._holding(key) as own:
                    found += await own.remove(places)
            else:
                found += len(places)
        if not dry_run:
            await self._take_name_out(key, subject)
        return found

    async def _take_name_out(self, key: NamespaceKey, subject: str) -> None:
        last: int | None = 0
        while last is not None:
            async with self._database.read() as connection:
                last = await self._versions(connection, key).last_changed_by(subject, last)
            if last is not None:
                async with self._holding(key) as own:
                    await own.take_name_out(subject, last)

    @contextlib.asynccontextmanager
    async def _holding(self, key: NamespaceKey) -> AsyncIterator[VersionsOf]:
        """Yield the versions of a namespace in a transaction that holds it."""
        async with self._database.write() as connection:
            await NamespaceRepository(connection).hold(key.id)
            yield self._versions(connection, key)

    async def prune(self, ended_before: datetime, group_id: str | None) -> int:
        """See `VersionStore`."""
        pruned = 0
        for kind in versions:
            # Mostly there are none: who writes waits for others, and they for it.
            async with self._database.read() as connection:
                groups = await groups_to_prune(connection, kind, ended_before, group_id)
            for group in groups:
                some = ROWS_IN_CHUNK
                while some == ROWS_IN_CHUNK:
                    some = await self.prune_portion(kind, ended_before, group, by_default=group_id is None)
                    pruned += some
        return pruned

    async def prune_portion(
        self, kind: MemoryKind, ended_before: datetime, group_id: str, *, by_default: bool = False
    ) -> int:
        """Prune up to `ROWS_IN_CHUNK` versions of one kind of a group, and return how many.

        `by_default`: none if the group has a policy by now.
        """
        async with self._database.write() as connection:
            return await prune(connection, kind, ended_before, group_id, by_default=by_default)

    async def shrink(self, most_bytes: int, changed_after: datetime | None) -> int:
        """See `VersionStore`."""
        groups: set[str] = set()
        for kind in versions:
            async with self._database.read() as connection:
                groups.update(await groups_with_versions(connection, kind, changed_after))
        return sum([await self.shrink_group(group, most_bytes) for group in sorted(groups)])

    async def shrink_group(self, group_id: str, most_bytes: int) -> int:
        """Remove what ended first of a group that has more bytes of versions, and return how many."""
        ended = await self.ended_too_early(group_id, most_bytes)
        return 0 if ended is None else await self.prune(ended, group_id)

    async def ended_too_early(self, group_id: str, most_bytes: int) -> datetime | None:
        """Return up to when those versions of a group ended that are too many bytes beside later ones; None: none."""
        async with self._database.read() as connection:
            return await ended_before_bytes(connection, group_id, most_bytes)

    async def clear(self, key: NamespaceKey) -> None:
        """Remove the versions that a namespace has, some thousand at a time."""
        async with self._database.read() as connection:
            last = await self._versions(connection, key).last_place()
        some = ROWS_IN_CHUNK
        while last and some == ROWS_IN_CHUNK:
            async with self._database.write() as connection:
                some = await self._versions(connection, key).clear(last)

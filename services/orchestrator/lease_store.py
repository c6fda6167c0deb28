"""Where the leases of worker hosts are kept, as all but the host itself see them."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL

from services.common.db.database import Database
from services.orchestrator.domain.lease import Lease, LeaseView
from services.orchestrator.file_locks import FileLocks
from services.orchestrator.repositories.leases import LeaseRepository, read_leases
from services.orchestrator.tables import worker_leases

T = TypeVar("T")


def lease_url(url: URL) -> URL:
    """Return the URL of the database that holds leases, by that of the orchestrator's.

    On SQLite it is a file of its own: who renews a lease must not wait for the one writer of everything else, and a
    host that is stopped while it writes must not make all others lose theirs. The table is made where it is missing;
    a release that changes it has to change the name of the file.
    """
    if url.get_backend_name() != "sqlite" or not url.database:
        return url
    file = Path(url.database)
    return url.set(database=str(file.with_name(f"{file.stem}-leases.db")))


class LeaseStore:
    """Says which hosts are alive. Every method raises Unavailable while the database does not answer."""

    def __init__(self, database: Database) -> None:
        """`database` is the orchestrator's."""
        url = lease_url(database.url)
        self._locks = FileLocks.beside(url)
        self._is_own = self._locks is not None
        self._database = Database(url.render_as_string(hide_password=False), "leases") if self._is_own else database
        self._is_ready = not self._is_own
        self._preparing = asyncio.Lock()

    async def alive(self) -> list[Lease]:
        """Return the leases that have not expired, oldest hosts first."""
        return await self._read(lambda connection: LeaseRepository(connection).alive())

    async def all(self) -> list[LeaseView]:
        """Return every lease."""
        await self._prepare()
        leases = await read_leases(self._database)
        locks = self._locks
        if locks is None:
            return leases
        return [
            lease if lease.lock_key is None else replace(lease, locked=locks.is_held(lease.lock_key))
            for lease in leases
        ]

    async def end(self, executor_id: str) -> None:
        """Let the lease of a host end now, so that others take over what it holds."""
        await self._write(lambda connection: LeaseRepository(connection).end(executor_id))

    async def forget(self, leases: Collection[LeaseView]) -> None:
        """Remove leases of dead hosts, but those that have been renewed, or have another lock, since they were read."""
        await self._write(lambda connection: LeaseRepository(connection).forget(leases))
        if self._locks is not None:
            for lease in leases:
                if lease.lock_key is not None:
                    self._locks.remove(lease.lock_key)

    async def close(self) -> None:
        """Close what this opened itself."""
        if self._is_own:
            await self._database.close()

    async def _read(self, query: Callable[[Connection], T]) -> T:
        await self._prepare()
        async with self._database.read() as connection:
            return await connection.run_sync(query)

    async def _write(self, change: Callable[[Connection], None]) -> None:
        await self._prepare()
        async with self._database.write() as connection:
            await connection.run_sync(change)

    async def _prepare(self) -> None:
        if self._is_ready:
            return
        async with self._preparing:
            async with self._database.write() as connection:
                await connection.run_sync(lambda sync: worker_leases.create(sync, checkfirst=True))
            # Not before the commit: who reads without waiting for it must find the table.
            self._is_ready = True

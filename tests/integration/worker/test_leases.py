"""Who lives is decided by the database's clock, and by locks that end with their process."""

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.orchestrator.domain.lease import LeaseView
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.worker.host.lease_connection import LeaseConnection
from tests.integration.worker.pooler import Pooler
from tests.support.service_tables import make_service_tables


@pytest.fixture
async def leases(database: Database) -> LeaseStore:
    store = LeaseStore(database)
    assert await store.alive() == []
    return store


@contextlib.contextmanager
def connection(database_url: str, executor_id: str, ttl: float = 60) -> Iterator[LeaseConnection]:
    opened = LeaseConnection(make_url(database_url), "orchestrator", executor_id, ttl)
    try:
        yield opened
    finally:
        opened.close()


async def view(leases: LeaseStore, executor_id: str) -> LeaseView:
    (found,) = [lease for lease in await leases.all() if lease.executor_id == executor_id]
    return found


async def test_a_lease_lives_by_the_databases_clock(database_url: str, leases: LeaseStore) -> None:
    with (
        connection(database_url, "lives") as lives,
        connection(database_url, "leaves") as leaves,
        connection(database_url, "died", -1) as died,
    ):
        for each in (lives, leaves, died):
            assert not each.renew(), "the first one begins the lease"
        assert lives.renew()
        assert not died.renew(), "it had run out"
        assert {lease.executor_id for lease in await leases.alive()} == {"lives", "leaves"}
        leaves.end()
        expired = [lease for lease in await leases.all() if lease.expired]
        assert {lease.executor_id for lease in expired} == {"leaves", "died"}
        assert not leaves.renew(), "what it had is others' now; it begins another one"
        await leases.forget(expired)
        assert {lease.executor_id for lease in await leases.all()} == {"lives", "leaves"}


async def test_a_file_that_is_being_prepared_is_read_when_its_table_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{tmp_path}/orchestrator.db", "orchestrator")
    leases = LeaseStore(database)
    made, commit = asyncio.Event(), asyncio.Event()
    write = Database.write

    @contextlib.asynccontextmanager
    async def slow(self: Database) -> AsyncIterator[AsyncConnection]:
        async with write(self) as connection:
            yield connection
            made.set()
            await commit.wait()

    monkeypatch.setattr(Database, "write", slow)
    first = asyncio.create_task(leases.alive())
    await made.wait()
    second = asyncio.create_task(leases.alive())
    # Time enough for a read that waits for nothing; one that waits for the commit is not done however long this is.
    await asyncio.wait([second], timeout=0.5)
    commit.set()
    assert (await first, await second) == ([], [])
    await leases.close()
    await database.close()


async def test_only_a_lease_with_the_lock_that_was_missing_is_forgotten(database_url: str, leases: LeaseStore) -> None:
    with connection(database_url, "taken for dead") as host:
        host.renew()
        seen = await view(leases, "taken for dead")
        assert seen.locked
        await leases.forget([LeaseView(seen.executor_id, expired=False, lock_key=1, locked=False)])
        assert host.renew()
        await leases.forget([LeaseView(seen.executor_id, expired=False, lock_key=seen.lock_key, locked=False)])
        assert not host.renew(), "it notices"


_HOLDER = """
import sys
from sqlalchemy import make_url
from services.orchestrator.worker.host.lease_connection import LeaseConnection
connection = LeaseConnection(make_url(sys.argv[1]), "orchestrator", "killed", 60)
connection.renew()
print("ready", flush=True)
connection.wait(600)
"""


async def test_the_lock_of_a_killed_process_is_gone_although_its_lease_lasts(
    database_url: str, leases: LeaseStore
) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _HOLDER, database_url, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    assert (await view(leases, "killed")).locked
    process.kill()
    await process.wait()
    while (found := await view(leases, "killed")).locked:
        assert not found.expired
    assert not found.expired


async def test_a_session_that_the_server_ends_is_noticed_and_locked_anew(postgres_url: str) -> None:
    make_service_tables("orchestrator", postgres_url)
    database = Database(postgres_url, "orchestrator")
    leases = LeaseStore(database)
    with connection(postgres_url, "host") as host:
        host.renew()
        before = await view(leases, "host")
        assert before.locked
        async with database.write() as other:
            await other.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'coxswain-lease'")
            )
        host.wait(600)
        assert host.renew(), "the lease has not run out"
        after = await view(leases, "host")
        assert after.locked
        assert after.lock_key != before.lock_key
    await database.close()


async def test_through_a_pooler_the_lease_alone_counts(postgres_url: str) -> None:
    make_service_tables("orchestrator", postgres_url)
    database = Database(postgres_url, "orchestrator")
    leases = LeaseStore(database)
    with Pooler(postgres_url) as pooler, connection(pooler.url, "pooled") as host:
        assert not host.renew()
        assert host.renew()
        assert (await view(leases, "pooled")).lock_key is None
    await database.close()


def test_one_that_its_thread_has_closed_can_be_woken(database_url: str) -> None:
    with connection(database_url, "gone") as lease:
        lease.close()
        lease.wake()

"""The default store with several processes at once, and with processes that are killed."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.common.db.database import Database
from services.common.db.migrate import upgrade_database
from services.memory.domain import EVERYTHING, Query, unit_vector
from services.memory.stores.sql.store import SqlMemoryStore
from tests.integration.memory.writer import KEY

ROOT = Path(__file__).resolve().parents[3]


@contextlib.asynccontextmanager
async def _store(url: str) -> AsyncIterator[SqlMemoryStore]:
    database = Database(url, "memory")
    try:
        yield SqlMemoryStore(database, cache_bytes=1 << 20, cached_namespace_bytes=1 << 20)
    finally:
        await database.close()


async def _start(url: str, prefix: str, batches: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.memory.writer",
        url,
        prefix,
        str(batches),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"},
    )


async def _check_all_there(url: str, acknowledged: set[str]) -> None:
    async with _store(url) as store:
        now = datetime.now(UTC)
        found = (await store.search(KEY, Query(unit_vector([1.0] * 8), 10_000, EVERYTHING), now)).results
        there = {result.record.id for result in found}
        assert acknowledged <= there
        assert len(found) == len(there)
        # Batches are there whole or not at all.
        assert len(there) % 3 == 0
        assert (await store.count(KEY, EVERYTHING, now)).count == len(there)
        assert (await store.namespaces(KEY.group_id, 5, None))[0].record_count == len(there)


async def test_writers_in_two_processes_lose_nothing_and_a_reader_sees_every_acknowledged_record(
    database_url: str,
) -> None:
    await upgrade_database("memory", database_url)
    writers = [await _start(database_url, prefix, 40) for prefix in ("a", "b")]
    acknowledged: set[str] = set()

    async def follow(writer: asyncio.subprocess.Process) -> None:
        assert writer.stdout is not None
        async for line in writer.stdout:
            acknowledged.add(line.decode().strip())

    followers = [asyncio.create_task(follow(writer)) for writer in writers]
    async with _store(database_url) as reader:
        while not all(follower.done() for follower in followers):
            expected = set(acknowledged)
            found = await reader.search(KEY, Query(unit_vector([1.0] * 8), 10_000, EVERYTHING), datetime.now(UTC))
            assert expected <= {result.record.id for result in found.results}
            await asyncio.sleep(0)
    await asyncio.gather(*followers)
    assert [await writer.wait() for writer in writers] == [0, 0]
    assert len(acknowledged) == 2 * 40 * 3
    await _check_all_there(database_url, acknowledged)


async def _kill_while_saving(url: str, rounds: int) -> None:
    await upgrade_database("memory", url)
    acknowledged: set[str] = set()
    for number in range(rounds):
        writer = await _start(url, f"w{number}", 1_000_000)
        assert writer.stdout is not None
        for _ in range(3 * (number % 5 + 2)):
            acknowledged.add((await writer.stdout.readline()).decode().strip())
        writer.kill()
        # What it acknowledged before it died counts too; a line cut short is no acknowledgement.
        rest = await writer.stdout.read()
        acknowledged |= {line.decode().strip() for line in rest.splitlines(keepends=True) if line.endswith(b"\n")}
        await writer.wait()
        await _check_all_there(url, acknowledged)


async def test_killing_a_writer_loses_no_acknowledged_record(database_url: str) -> None:
    await _kill_while_saving(database_url, 5)


@pytest.mark.chaos
async def test_killing_many_writers_loses_no_acknowledged_record(database_url: str) -> None:
    await _kill_while_saving(database_url, 50)

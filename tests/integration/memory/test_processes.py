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
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.listings import ListPosition
from services.memory.domain.moments import microseconds
from services.memory.domain.records import Record, Unified
from services.memory.domain.searches import Query
from services.memory.domain.vectors import unit_vector
from services.memory.stores.sql.store import SqlMemoryStore
from tests.integration.memory.remover import DOOMED
from tests.integration.memory.writer import KEY, SPACE
from tests.support.service_tables import make_service_tables

ROOT = Path(__file__).resolve().parents[3]


@contextlib.asynccontextmanager
async def _store(url: str) -> AsyncIterator[SqlMemoryStore]:
    database = Database(url, "memory")
    try:
        yield SqlMemoryStore(database, cache_bytes=1 << 20, cached_namespace_bytes=1 << 20)
    finally:
        await database.close()


async def _start(url: str, prefix: str, batches: int) -> asyncio.subprocess.Process:
    return await _start_module("writer", url, prefix, str(batches))


async def _start_module(name: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.integration.memory.{name}",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
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
    make_service_tables("memory", database_url)
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
    make_service_tables("memory", url)
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


async def _ids_listed(store: SqlMemoryStore, chosen: Filter) -> set[str]:
    listed: list[Record] = []
    after = None
    while True:
        page = await store.page(KEY, chosen, 500, after, datetime.now(UTC), embeddings=True)
        listed.extend(page.records)
        if not page.more:
            assert all(record.embedding is not None and len(record.embedding) == 8 for record in listed)
            return {record.id for record in listed}
        last = listed[-1]
        assert last.created_at is not None
        after = ListPosition(microseconds(last.created_at), KEY.stored_id(last.id))


@pytest.mark.parametrize("removal", ["clear", "delete"])
async def test_a_removal_that_is_killed_leaves_whole_records_and_right_counts_and_can_be_repeated(
    database_url: str, removal: str
) -> None:
    make_service_tables("memory", database_url)
    kept = {f"r{n}" for n in range(900) if n % 3} if removal == "delete" else set()
    async with _store(database_url) as store:
        records = [
            Record(
                f"r{n}",
                Unified(f"text {n}", categories=() if n % 3 else ("doomed",)),
                unit_vector([1, n % 7, 0, 0, 0, 0, 0, 1]),
            )
            for n in range(900)
        ]
        await store.save(KEY, SPACE, records, datetime.now(UTC))
        question = Query(unit_vector([1.0] * 8), 10_000, EVERYTHING)
        before = {record.id for record in records}
        for portions in (1, 3):
            remover = await _start_module("remover", database_url, removal)
            assert remover.stdout is not None
            assert remover.stdin is not None
            for _ in range(portions):
                assert await remover.stdout.readline() == b"portion\n"
                remover.stdin.write(b"go on\n")
            assert await remover.stdout.readline() == b"portion\n"
            remover.kill()
            await remover.wait()
            there = await _ids_listed(store, EVERYTHING)
            assert kept < there < before
            found = (await store.search(KEY, question, datetime.now(UTC))).results
            assert {result.record.id for result in found} == there
            assert (await store.count(KEY, EVERYTHING, datetime.now(UTC))).count == len(there)
            assert [info.record_count for info in await store.namespaces(KEY.group_id, 5, None)] == [len(there)]
            assert await _ids_listed(store, DOOMED) == there - kept if removal == "delete" else True
            before = there
        remover = await _start_module("remover", database_url, removal)
        output, _ = await remover.communicate(b"go on\n" * 1000)
        assert output.splitlines()[-1] == f"removed {len(before - kept)}".encode()
        assert await _ids_listed(store, EVERYTHING) == kept
        assert {r.record.id for r in (await store.search(KEY, question, datetime.now(UTC))).results} == kept

"""What a server of somebody else's may send in answer, and what a call says whose answer never comes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import asyncpg
import grpc
import pytest
from sqlalchemy import Integer, bindparam, func, select

from coxswain.memory.v1 import memory_pb2 as pb
from services.common.errors import FailedPrecondition, Unavailable
from services.memory.domain.backends import TlsMode
from services.memory.stores.pgvector.database import BackendDatabase
from tests.integration.auth.support import refused
from tests.integration.memory.pgvector_support import (
    FixedLogins,
    backend_of,
    config_of,
    connector_here,
    database_message,
    front_of,
    pools_of,
    serve_with_databases,
    use_database,
)
from tests.integration.memory.support import place, stub, unified
from tests.support.harness import ALICE

LETTERS = select(func.repeat("x", bindparam("length", type_=Integer)))
TINY = select(func.generate_series(1, 3000))
SERIES = select(func.repeat("x", 1000)).select_from(func.generate_series(1, 3000))
MOST = 2**20


@pytest.mark.parametrize("tls_mode", [TlsMode.VERIFY_FULL, TlsMode.DISABLE])
async def test_an_answer_is_taken_up_to_its_bound(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls_mode: TlsMode
) -> None:
    async with front_of(pgvector_url, tmp_path, monkeypatch) as front:
        config = config_of(
            pgvector_url,
            host="localhost",
            port=front.port,
            tls_mode=tls_mode,
            ca_certificates=front.certificate,
        )
        backend = replace(backend_of(pgvector_url), pgvector=config)
        async with pools_of(pgvector_url, connector=connector_here(answer_bytes=MOST)) as pools:
            database = BackendDatabase(backend, pools)
            for _ in range(3):
                assert await database.fetch(LETTERS, {"length": MOST - 5000})
            for length in (MOST, 20 * MOST):
                with pytest.raises(FailedPrecondition) as large:
                    await database.fetch(LETTERS, {"length": length})
                assert (large.value.reason, large.value.metadata["error_code"]) == ("STORE_FAILED", "ANSWER_TOO_LARGE")
            for statement in (SERIES, TINY):
                with pytest.raises(FailedPrecondition):
                    await database.fetch(statement)
            # Three times as much in portions that are asked for.
            async with database.read() as connection, connection.stream(SERIES) as rows:
                assert len([row async for portion in rows.partitions(100) for row in portion]) == 3000
            assert len(front.logins) == 5


@pytest.mark.parametrize("tls_mode", [TlsMode.VERIFY_FULL, TlsMode.DISABLE])
async def test_answers_are_held_up_to_the_bound_of_a_group_and_of_all(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls_mode: TlsMode
) -> None:
    async with front_of(pgvector_url, tmp_path, monkeypatch) as front, AsyncExitStack() as closing:
        config = config_of(
            pgvector_url, host="localhost", port=front.port, tls_mode=tls_mode, ca_certificates=front.certificate
        )
        # Room for two large answers, of which a group has one.
        connector = connector_here(answer_bytes=MOST, held_bytes=2 * MOST)
        databases = []
        for group_id in ("sales", "legal", "press"):
            logins = FixedLogins()
            logins.group_id = group_id
            pools = await closing.enter_async_context(pools_of(pgvector_url, logins, connector=connector))
            databases.append(BackendDatabase(replace(backend_of(pgvector_url, group_id), pgvector=config), pools))
        sales, legal, press = databases
        large = {"length": 9 * MOST // 10}
        for database in (*databases, *databases):
            # Read and given back, one after the other.
            assert await database.fetch(LETTERS, large)
        async with sales.read() as of_sales, legal.read() as of_legal:
            assert (await of_sales.execute(LETTERS, large)).all()
            with pytest.raises(Unavailable) as full:
                await sales.fetch(LETTERS, large)
            assert full.value.retry_after
            assert await sales.fetch(LETTERS, {"length": MOST // 20})
            assert (await of_legal.execute(LETTERS, large)).all()
            with pytest.raises(Unavailable):
                await press.fetch(LETTERS, large)
            # Asked for something else, it holds the answer no more.
            assert (await of_legal.execute(LETTERS, {"length": 1})).all()
            assert await press.fetch(LETTERS, large)
        for database in databases:
            assert await database.fetch(LETTERS, large)


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_save_whose_end_is_unknown_is_no_success_and_can_be_repeated(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, arrives: bool
) -> None:
    async with front_of(pgvector_url, tmp_path, monkeypatch) as front, serve_with_databases(tmp_path) as harness:
        await use_database(harness, database_message(front, pgvector_url), ALICE, provision=False)
        memories = stub(harness.channel(ALICE))
        own = pb.SaveRecordsRequest(namespace=place(), records=[unified("a storm"), unified("a calm", "r1")])
        front.cuts_commits, front.commits_arrive = True, arrives
        with refused(grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
            await memories.SaveRecords(own)
        assert front.cuts == 1
        front.cuts_commits = False

        async def contents() -> list[str]:
            found = await memories.ListRecords(pb.ListRecordsRequest(namespace=place()))
            return sorted(record.unified.content for record in found.records)

        assert await contents() == (["a calm", "a storm"] if arrives else [])
        first = await memories.SaveRecords(own)
        again = await memories.SaveRecords(own)
        assert list(first.ids) == list(again.ids)
        assert await contents() == ["a calm", "a storm"]


@pytest.mark.parametrize("tls_mode", [TlsMode.VERIFY_FULL, TlsMode.DISABLE])
async def test_a_statement_ends_with_the_call_that_waits_for_it(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls_mode: TlsMode
) -> None:
    running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
    async with front_of(pgvector_url, tmp_path, monkeypatch) as front:
        config = config_of(
            pgvector_url, host="localhost", port=front.port, tls_mode=tls_mode, ca_certificates=front.certificate
        )
        backend = replace(backend_of(pgvector_url), pgvector=config)
        beside = await asyncpg.connect(pgvector_url)

        async def becomes(count: int) -> None:
            async with asyncio.timeout(60):
                while await beside.fetchval(running) != count:  # noqa: ASYNC110 - only the server knows
                    await asyncio.sleep(0.01)

        async with pools_of(pgvector_url, connector=connector_here(), connections=1) as pools:
            database = BackendDatabase(backend, pools)
            call = asyncio.create_task(database.fetch(select(func.pg_sleep(3600))))
            await becomes(1)
            call.cancel()
            await asyncio.wait([call])
            await becomes(0)
            [row] = await database.fetch(select(func.length("abc")))
            assert list(row.values()) == [3]
        await beside.close()
        assert front.cancelled == 1

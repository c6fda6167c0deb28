"""Turns, rates and circuits of groups at sources."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.row_seal import RowSeal
from services.common.identity.service_identity import ServiceIdentity
from services.common.ids import new_id
from services.orchestrator.domain.gateway_call import CallKey
from services.orchestrator.tables import gateway_calls
from services.orchestrator.tool_gateway.ports import CallRefused
from services.orchestrator.tool_gateway.usecases.call_store import CallStore
from services.orchestrator.tool_gateway.usecases.source_limits import SourceKey, SourceLimits

BANK, SHOP, THEIRS = SourceKey("sales", "bank"), SourceKey("sales", "shop"), SourceKey("legal", "bank")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'calls.db'}", "orchestrator")
    async with opened.write() as connection:
        await connection.run_sync(gateway_calls.create)
    yield opened
    await opened.close()


def limits_on(database: Database, **values: Any) -> SourceLimits:
    return SourceLimits(
        database, **({"at_once": 1, "waiting": 1, "outage_threshold": 3, "outage_pause": 30.0} | values)
    )


async def test_calls_take_turns_in_their_order_and_others_need_not_wait(database: Database) -> None:
    limits = limits_on(database, waiting=2)
    order: list[int] = []
    gate = asyncio.Event()

    async def call(number: int) -> None:
        async with limits.turn(BANK, wait_seconds=5):
            order.append(number)
            await gate.wait()

    calls = [asyncio.create_task(call(number)) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(CallRefused, match="2 wait for bank") as refused:
        async with limits.turn(BANK, wait_seconds=5):
            raise AssertionError
    assert refused.value.reason == "TOOL_RATE_LIMITED"
    for key in (SHOP, THEIRS):
        async with limits.turn(key, wait_seconds=0):
            assert order == [0]
    gate.set()
    await asyncio.gather(*calls)
    assert order == [0, 1, 2]
    assert not limits._turns


async def test_a_wait_ends_with_its_time_or_its_caller_and_blocks_nobody(database: Database) -> None:
    limits = limits_on(database, waiting=5)
    async with limits.turn(BANK, wait_seconds=5):
        with pytest.raises(CallRefused, match=r"ended within 0\.01 s"):
            async with limits.turn(BANK, wait_seconds=0.01):
                raise AssertionError

        async def wait() -> None:
            async with limits.turn(BANK, wait_seconds=5):
                raise AssertionError

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with limits.turn(BANK, wait_seconds=0):
        pass
    assert not limits._turns


async def test_a_place_that_is_given_to_a_cancelled_call_is_not_lost(database: Database) -> None:
    limits = limits_on(database, waiting=5)

    async def hold(gate: asyncio.Event) -> None:
        async with limits.turn(BANK, wait_seconds=5):
            await gate.wait()

    gate = asyncio.Event()
    first, second = asyncio.create_task(hold(gate)), asyncio.create_task(hold(asyncio.Event()))
    await asyncio.sleep(0)
    gate.set()
    await first
    # The place is the second one's by now, which has not run since.
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    async with limits.turn(BANK, wait_seconds=0):
        pass


async def test_a_rate_counts_the_calls_of_all_processes_in_the_last_minute(database: Database, tmp_path: Path) -> None:
    seal = RowSeal(ServiceIdentity.load(tmp_path, "tools", create=True), "test")
    store = CallStore(database, seal, "another-process", lease_seconds=3)
    for group, source in (("sales", "bank"), ("sales", "bank"), ("sales", "shop"), ("legal", "bank")):
        await store.claim(CallKey(group, new_id()), "", source)
    now: list[datetime] = [utc_now()]
    limits = limits_on(database, now=lambda: now[0], at_once=8)
    async with limits.rate(BANK, 3):
        with pytest.raises(CallRefused, match="3 times a minute") as refused:
            async with limits.rate(BANK, 3):
                raise AssertionError
        assert refused.value.reason == "TOOL_RATE_LIMITED"
    async with limits.rate(BANK, 3), limits.rate(SHOP, 2), limits.rate(THEIRS, 2):
        pass
    now[0] += timedelta(seconds=61)
    async with limits.rate(BANK, 1):
        pass


async def test_a_source_that_fails_is_left_alone_by_one_group_only(database: Database) -> None:
    limits = limits_on(database)
    for _ in range(3):
        limits.attempt(BANK, first=True, counted=True).failed("refused the connection")
    with pytest.raises(CallRefused, match="another 30 s; the last time: refused the connection") as refused:
        limits.attempt(BANK, first=True, counted=True)
    assert refused.value.reason == "TOOL_UNAVAILABLE"
    for key in (SHOP, THEIRS):
        limits.attempt(key, first=True, counted=True).succeeded()
    # Who has begun a call goes on with it.
    limits.attempt(BANK, first=False, counted=True).gave_up()
    for _ in range(10):
        limits.attempt(SHOP, first=True, counted=False).failed("a page of many")
    limits.attempt(SHOP, first=True, counted=True).succeeded()

"""A group that floods an upstream waits for itself alone."""

import asyncio

import pytest

from services.common.errors import ResourceExhausted
from services.common.group_lines import GroupLines
from services.models.providers.group_shares import GroupShares

ORIGIN = "https://example.com"


async def test_one_groups_calls_never_wait_for_anothers() -> None:
    shares = GroupShares(most=2, wait_seconds=60)
    async with shares.slot(ORIGIN, "a"), shares.slot(ORIGIN, "a"):
        waiting = asyncio.create_task(_enter(shares, "a"))
        await asyncio.sleep(0)
        async with shares.slot(ORIGIN, "b"), shares.slot("https://example.org", "a"):
            assert not waiting.done()
    await waiting


async def test_who_waits_for_their_share_holds_no_turn() -> None:
    lines, shares = GroupLines(1, alone=1), GroupShares(most=1, wait_seconds=60)

    async def call() -> None:
        async with lines.turn("a", 3600.0, lambda: False):
            await _enter(shares, "a")

    async with shares.slot(ORIGIN, "a"):
        waiting = asyncio.create_task(call())
        await asyncio.sleep(0)
        async with asyncio.timeout(60), lines.turn("a", 3600.0, lambda: False):
            assert not waiting.done()
    await waiting


async def test_a_call_past_the_share_is_refused_with_a_time_to_come_back() -> None:
    shares = GroupShares(most=1, wait_seconds=0.01)
    async with shares.slot(ORIGIN, "a"):
        with pytest.raises(ResourceExhausted) as refused:
            await _enter(shares, "a")
    assert refused.value.retry_after
    await _enter(shares, "a")


async def test_those_who_wait_keep_their_order_and_a_cancelled_one_costs_no_slot() -> None:
    shares = GroupShares(most=1, wait_seconds=60)
    order: list[int] = []

    async def call(number: int) -> None:
        async with shares.slot(ORIGIN, "a"):
            order.append(number)

    async with shares.slot(ORIGIN, "a"):
        calls = [asyncio.create_task(call(number)) for number in range(4)]
        await asyncio.sleep(0)
        calls[1].cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*calls, return_exceptions=True)
    assert order == [0, 2, 3]
    await _enter(shares, "a")


async def test_a_slot_handed_to_a_call_that_is_cancelled_at_once_is_not_lost() -> None:
    shares = GroupShares(most=1, wait_seconds=60)
    async with shares.slot(ORIGIN, "a"):
        waiting = asyncio.create_task(_enter(shares, "a"))
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(60):
        await _enter(shares, "a")


async def _enter(shares: GroupShares, group: str) -> None:
    async with shares.slot(ORIGIN, group):
        pass

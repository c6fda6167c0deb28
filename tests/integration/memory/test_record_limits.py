"""What the operator allows a group in memory."""

import asyncio
from typing import Any

import grpc

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from tests.integration.auth.support import refused
from tests.integration.memory.documents import save
from tests.integration.memory.support import EmbeddingModels, place, stub, unified
from tests.support.group_limits import limit, lower
from tests.support.harness import BOB, Harness

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


async def store(memories: Any, *records: record_pb2.Record) -> None:
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))


async def test_records_are_limited_for_that_group_alone(served: tuple[Harness, EmbeddingModels]) -> None:
    harness, _ = served
    sales, legal = harness.channel(), harness.channel(BOB)
    await limit(harness, max_records=3)
    await store(stub(sales), unified("one", "a"), unified("two", "b"))
    with refused(EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await store(stub(sales), unified("three", "c"), unified("four", "d"))
    assert refusal.metadata == {"quota": "max_records", "limit": "3", "used": "2"}
    await store(stub(sales), unified("three", "c"))
    # What is there can be changed.
    await store(stub(sales), unified("another two", "b"), unified("another one", "a"))
    with refused(EXHAUSTED, "QUOTA_EXCEEDED"):
        await save(sales, "About lamps.", id="lamps", file_name="lamps.txt")
    await store(stub(legal), *(unified(f"text {number}", f"{number}") for number in range(5)))
    await save(legal, "About lamps.", id="lamps", file_name="lamps.txt")
    await limit(harness, max_records=4)
    for text in ("About lamps.", "About other lamps."):
        await save(sales, text, id="lamps", file_name="lamps.txt")
    with refused(EXHAUSTED, "QUOTA_EXCEEDED"):
        await store(stub(sales), unified("five", "e"))
    # A limit that was lowered below what is there keeps nobody from changing that.
    await limit(harness, max_records=1)
    await store(stub(sales), unified("yet another two", "b"))
    await limit(harness, max_records=None)
    await store(stub(sales), unified("five", "e"))


async def test_saves_at_the_same_time_do_not_pass_the_limit(served: tuple[Harness, EmbeddingModels]) -> None:
    harness, _ = served
    sales = harness.channel()
    await lower(harness, max_records=3)

    async def saved(number: int) -> None:
        if number % 5:
            await store(stub(sales), unified(f"text {number}", f"{number}"))
        else:
            await save(sales, f"About lamp {number}.", id=f"lamp-{number}", file_name="lamp.txt")

    outcomes = await asyncio.gather(*map(saved, range(10)), return_exceptions=True)
    refusals = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert [each.code() for each in refusals] == [EXHAUSTED] * 7
    assert outcomes.count(None) == 3

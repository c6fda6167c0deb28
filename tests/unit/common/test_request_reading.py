"""What is waited for of requests that do not come whole."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from services.common.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from services.common.grpc.request_reading import RequestReader, _SlowReads
from tests.support.waiting import until

SLOW_AT_ONCE = 16
SLOW_AT_ONCE_OF_GROUP = 32


class Unfinished:
    """The messages of a call, of which the last one comes when it is let go on."""

    def __init__(self, *come: bytes) -> None:
        self.go_on = asyncio.Event()
        self.messages = self._messages(come)

    async def _messages(self, come: tuple[bytes, ...]) -> AsyncIterator[bytes]:
        for message in come:
            yield message
        await self.go_on.wait()
        yield b"whole"


async def no_messages() -> AsyncIterator[bytes]:
    for message in list[bytes]():
        yield message


def slow(reads: _SlowReads, key: str | None = None) -> int:
    """How many reads are slow and go on."""
    return len(reads._limits.get(key, ()))


def ended(reading: list[asyncio.Task[bytes]]) -> int:
    return sum(task.done() for task in reading)


async def test_of_slow_strangers_the_newest_are_waited_for() -> None:
    reader = RequestReader(quick_seconds=0.001)
    calls = [Unfinished() for _ in range(SLOW_AT_ONCE + 3)]
    reading = list[asyncio.Task[bytes]]()
    for call in calls:
        reading.append(asyncio.create_task(reader.read_of_stranger(call.messages)))
        # Timers that end together have no order: each is slow, and has ended the oldest of many, before the next comes.
        await until(lambda: slow(reader._of_strangers) + ended(reading) == len(reading))
    for refused in reading[:3]:
        with pytest.raises(ResourceExhausted) as caught:
            await refused
        assert (caught.value.reason, caught.value.metadata["limit"]) == ("OVERLOADED", str(SLOW_AT_ONCE))
        assert caught.value.retry_after
    for call in calls:
        call.go_on.set()
    assert await asyncio.gather(*reading[3:]) == [b"whole"] * SLOW_AT_ONCE


async def test_those_who_are_known_are_not_counted_among_slow_strangers() -> None:
    reader = RequestReader(quick_seconds=0.001, quick_seconds_of_group=0.001)
    calls = [Unfinished() for _ in range(2 * SLOW_AT_ONCE)]
    reading = [asyncio.create_task(reader.read(call.messages, "sales")) for call in calls]
    stranger = Unfinished()
    waiting = asyncio.create_task(reader.read_of_stranger(stranger.messages))
    await until(lambda: (slow(reader._of_groups, "sales"), slow(reader._of_strangers)) == (len(calls), 1))
    for call in (*calls, stranger):
        call.go_on.set()
    assert await asyncio.gather(*reading, waiting) == [b"whole"] * (2 * SLOW_AT_ONCE + 1)


async def test_of_slow_requests_of_a_group_the_oldest_are_waited_for_and_no_other_group_pays() -> None:
    reader = RequestReader(quick_seconds_of_group=0.001)
    calls = [Unfinished() for _ in range(SLOW_AT_ONCE_OF_GROUP)]
    reading = [asyncio.create_task(reader.read(call.messages, "sales")) for call in calls]
    others = {"legal": Unfinished(), None: Unfinished()}
    reading += [asyncio.create_task(reader.read(call.messages, group)) for group, call in others.items()]
    await until(lambda: (slow(reader._of_groups, "sales"), slow(reader._of_groups, "legal")) == (len(calls), 1))
    with pytest.raises(ResourceExhausted) as caught:
        await reader.read(Unfinished().messages, "sales")
    told = {"limit": str(SLOW_AT_ONCE_OF_GROUP), "counted": "slow requests of one group"}
    assert (caught.value.reason, caught.value.metadata) == ("OVERLOADED", told)
    for call in (*calls, *others.values()):
        call.go_on.set()
    assert await asyncio.gather(*reading) == [b"whole"] * (SLOW_AT_ONCE_OF_GROUP + 2)


async def test_what_is_seen_soon_after_the_process_stood_still_is_not_slow() -> None:
    reader = RequestReader(quick_seconds=0.4)
    calls = [Unfinished() for _ in range(SLOW_AT_ONCE + 3)]
    reading = [asyncio.create_task(reader.read_of_stranger(call.messages)) for call in calls]
    await asyncio.sleep(0)
    time.sleep(0.41)  # noqa: ASYNC251 - this is what is tested
    for _ in range(4):
        await asyncio.sleep(0)
    for call in calls:
        call.go_on.set()
    assert await asyncio.gather(*reading) == [b"whole"] * (SLOW_AT_ONCE + 3)


async def test_who_is_let_in_has_time_for_the_largest_message_on_a_slow_network() -> None:
    reader = RequestReader(max_message_bytes=2**40, seconds=0)
    call = Unfinished()
    reading = asyncio.create_task(reader.read(call.messages, "sales"))
    with pytest.raises(DeadlineExceeded):
        await reader.read_of_stranger(Unfinished().messages)
    call.go_on.set()
    assert await reading == b"whole"


@pytest.mark.parametrize("group", ["sales", None, "a stranger"])
async def test_a_request_that_does_not_come_is_given_up(group: str | None) -> None:
    reader = RequestReader(seconds=0.001)

    async def read(messages: AsyncIterator[bytes]) -> bytes:
        if group == "a stranger":
            return await reader.read_of_stranger(messages)
        return await reader.read(messages, group)

    with pytest.raises(DeadlineExceeded, match="has not come whole") as caught:
        await read(Unfinished().messages)
    assert caught.value.reason == "STREAM_IDLE"
    with pytest.raises(InvalidArgument) as missing:
        await read(no_messages())
    assert missing.value.reason == "MALFORMED_MESSAGE"


async def test_a_stream_of_a_stranger_may_rest_between_requests() -> None:
    reader = RequestReader(seconds=0.001, quick_seconds=0.001)
    call = Unfinished()
    requests = reader.requests_of_stranger(call.messages)
    first = asyncio.ensure_future(anext(requests))
    await until(lambda: slow(reader._of_strangers) == 1)
    assert not first.done()
    call.go_on.set()
    assert await first == b"whole"
    assert [rest async for rest in requests] == []


async def test_streams_of_strangers_that_rest_are_not_slow() -> None:
    reader = RequestReader(quick_seconds=0.001)
    calls = [Unfinished(b"first") for _ in range(SLOW_AT_ONCE + 3)]
    streams = [reader.requests_of_stranger(call.messages) for call in calls]
    assert [await anext(stream) for stream in streams] == [b"first"] * len(calls)
    resting = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0.01)
    for call in calls:
        call.go_on.set()
    assert await asyncio.gather(*resting) == [b"whole"] * len(calls)

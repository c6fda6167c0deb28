"""What is waited for of requests that do not come whole."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from services.common.grpc.request_reading import RequestReader

SLOW_AT_ONCE = 16


class Unfinished:
    """The messages of a call, of which the first one comes when it is let go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.messages = self._messages()

    async def _messages(self) -> AsyncIterator[bytes]:
        await self.go_on.wait()
        yield b"whole"


async def no_messages() -> AsyncIterator[bytes]:
    for message in list[bytes]():
        yield message


async def test_of_slow_strangers_the_newest_are_waited_for() -> None:
    reader = RequestReader(quick_seconds=0.001)
    calls = [Unfinished() for _ in range(SLOW_AT_ONCE + 3)]
    reading = []
    for call in calls:
        reading.append(asyncio.create_task(reader.read_of_stranger(call.messages)))
        # Timers that end together have no order.
        await asyncio.sleep(0.002)
    for refused in reading[:3]:
        with pytest.raises(ResourceExhausted) as caught:
            await refused
        assert (caught.value.reason, caught.value.metadata["limit"]) == ("OVERLOADED", str(SLOW_AT_ONCE))
        assert caught.value.retry_after
    for call in calls:
        call.go_on.set()
    assert await asyncio.gather(*reading[3:]) == [b"whole"] * SLOW_AT_ONCE


async def test_those_who_are_known_are_not_counted_among_slow_strangers() -> None:
    reader = RequestReader(quick_seconds=0.001)
    calls = [Unfinished() for _ in range(2 * SLOW_AT_ONCE)]
    reading = [asyncio.create_task(reader.read(call.messages)) for call in calls]
    stranger = Unfinished()
    waiting = asyncio.create_task(reader.read_of_stranger(stranger.messages))
    await asyncio.sleep(0.01)
    for call in (*calls, stranger):
        call.go_on.set()
    assert await asyncio.gather(*reading, waiting) == [b"whole"] * (2 * SLOW_AT_ONCE + 1)


@pytest.mark.parametrize("known", [True, False])
async def test_a_request_that_does_not_come_is_given_up(known: bool) -> None:
    reader = RequestReader(seconds=0.001)
    read = reader.read if known else reader.read_of_stranger
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
    await asyncio.sleep(0.01)
    assert not first.done()
    call.go_on.set()
    assert await first == b"whole"
    assert [rest async for rest in requests] == []

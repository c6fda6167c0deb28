"""Reads the request of a call when it is known who makes it.

For a handler of one request, gRPC reads it before anybody can look at the call, and takes as much as the largest
message has from whoever sends one. So such methods are bound as if their requests were streamed, which is the same on
the wire: of a call that has not been let in yet, gRPC holds no more than the window of its stream.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from typing import cast

from services.common.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from services.common.grpc.metrics import REFUSED

_SECONDS = 60.0
_SLOWEST_BYTES_PER_SECOND = 32 * 1024
_QUICK_SECONDS = 0.2
_QUICK_SECONDS_OF_GROUP = 2.0
_MOST_SLOW = 16
_MOST_SLOW_OF_GROUP = 32
_RETRY_SECONDS = 1.0
_CANCELLED_WITHIN_SECONDS = 0.05


async def let_cancel() -> None:
    """Let gRPC cancel this task, after the last message, if its client is gone rather than done.

    Both look the same at first: no message comes. Of a client that is gone, gRPC hears at the same time. So the end of
    every stream of requests takes 50 ms longer (an import of one message took 90 instead of 40); without it, half of a
    document would be saved as a whole one.
    """
    await asyncio.sleep(_CANCELLED_WITHIN_SECONDS)


class _SlowReads:
    """The reads that take long, of which so many go on for each key."""

    def __init__(self, what: str, most: int, quick_seconds: float, *, newest: bool) -> None:
        """`what` is counted, in words; of more than `most`, the newest go on, or else the oldest."""
        self._what = what
        self._most = most
        self._quick_seconds = quick_seconds
        self._newest = newest
        self._limits: dict[Hashable, dict[asyncio.Timeout, None]] = {}
        """Ends each, the oldest first."""
        REFUSED.labels(what)

    async def next_of(
        self, messages: AsyncIterator[bytes], seconds: float | None, key: Hashable = None
    ) -> bytes | None:
        """Return the next message, or None after the last one.

        Raises:
            ResourceExhausted: OVERLOADED, it is slow, and so are many others.
            TimeoutError: it has not come in time.
        """
        loop = asyncio.get_running_loop()
        end = None if seconds is None else loop.time() + seconds
        half = self._quick_seconds / 2
        # Nearly all come before that: a second timer for each would be set in vain.
        limit = asyncio.timeout_at(end if seconds is not None and seconds <= half else None)
        timer: asyncio.TimerHandle

        def look_again() -> None:
            nonlocal timer
            if limit.when() is None:
                limit.reschedule(end)
            timer = loop.call_later(half, self._count, key, limit)

        try:
            async with limit:
                # In two steps: when a process has stood still, timers end before gRPC tells the loop what has come.
                timer = loop.call_later(half, look_again)
                try:
                    return await anext(messages, None)
                finally:
                    timer.cancel()
                    self._forget(key, limit)
        except TimeoutError:
            if limit.when() == end:
                raise
        REFUSED.labels(self._what).inc()
        raise ResourceExhausted(
            f"the request has not come whole in {self._quick_seconds:g} s, and as many {self._what} as may be, "
            f"{self._most}, are waited for; try again",
            reason="OVERLOADED",
            metadata={"limit": str(self._most), "counted": self._what},
            retry_after=_RETRY_SECONDS,
        )

    def _count(self, key: Hashable, limit: asyncio.Timeout) -> None:
        limits = self._limits.setdefault(key, {})
        limits[limit] = None
        if len(limits) > self._most:
            given_up = next(iter(limits)) if self._newest else limit
            del limits[given_up]
            if not given_up.expired():
                given_up.reschedule(asyncio.get_running_loop().time())

    def _forget(self, key: Hashable, limit: asyncio.Timeout) -> None:
        if (limits := self._limits.get(key)) is not None:
            limits.pop(limit, None)
            if not limits:
                del self._limits[key]


class RequestReader:
    """Reads the requests of one listener."""

    def __init__(
        self,
        max_message_bytes: int = 0,
        *,
        seconds: float = _SECONDS,
        quick_seconds: float = _QUICK_SECONDS,
        quick_seconds_of_group: float = _QUICK_SECONDS_OF_GROUP,
    ) -> None:
        """Requests come within `seconds`, of those who are let in with what the largest takes at 32 KiB a second.

        Those that take longer than `quick_seconds` are slow. Of strangers', the 16 that came last are waited for, or
        those that never end would take all places; of a group's, the 32 that came first, so that some do end.
        """
        self._seconds = seconds
        self._seconds_when_let_in = seconds + max_message_bytes / _SLOWEST_BYTES_PER_SECOND
        self._of_strangers = _SlowReads("slow requests without a credential", _MOST_SLOW, quick_seconds, newest=True)
        self._of_groups = _SlowReads(
            "slow requests of one group", _MOST_SLOW_OF_GROUP, quick_seconds_of_group, newest=False
        )

    async def read(self, messages: AsyncIterator[bytes], group_id: str | None) -> bytes:
        """Return the request of a call that has been let in; one of another service's is of no group.

        Raises:
            ResourceExhausted: OVERLOADED, it is slow, and so are many of its group already.
            InvalidArgument: MALFORMED_MESSAGE, the call has none.
            DeadlineExceeded: STREAM_IDLE, it has not come in time.
        """
        seconds = self._seconds_when_let_in
        async with contextlib.aclosing(_receiver(messages)) as requests:
            try:
                if group_id is None:
                    async with asyncio.timeout(seconds):
                        data = await anext(requests, None)
                else:
                    data = await self._of_groups.next_of(requests, seconds, group_id)
            except TimeoutError:
                raise _late(seconds) from None
        return await _required(data)

    async def read_of_stranger(self, messages: AsyncIterator[bytes]) -> bytes:
        """Return the request of a call that anybody may make.

        Raises:
            ResourceExhausted: OVERLOADED, it is slow, and so are many that have come since.
            InvalidArgument: MALFORMED_MESSAGE, the call has none.
            DeadlineExceeded: STREAM_IDLE, it has not come in time.
        """
        async with contextlib.aclosing(_receiver(messages)) as requests:
            try:
                data = await self._of_strangers.next_of(requests, self._seconds)
            except TimeoutError:
                raise _late(self._seconds) from None
        return await _required(data)

    async def requests_of_stranger(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the requests of a stream that anybody may open, and that may rest for long between two.

        Raises:
            ResourceExhausted: OVERLOADED, the first one is slow, and so are many that have come since.
        """
        data = await self._of_strangers.next_of(messages, None)
        while data is not None:
            yield data
            data = await anext(messages, None)


def _receiver(messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Return the generator that gRPC receives messages with, which has to be closed.

    By itself it stands in a circle of objects with all of its call, until Python looks for those: then it does so for
    hundreds of calls in one step of the event loop.
    """
    return cast("AsyncGenerator[bytes, None]", aiter(messages))


def _late(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the request has not come whole in {seconds:g} s; send it without pauses, and less at once on a slow network",
        reason="STREAM_IDLE",
        metadata={"seconds": f"{seconds:g}"},
    )


async def _required(data: bytes | None) -> bytes:
    if data is None:
        await let_cancel()
        raise InvalidArgument("the call has no request; send one message", reason="MALFORMED_MESSAGE")
    return data

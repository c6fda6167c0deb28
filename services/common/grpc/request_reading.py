"""Reads the request of a call when it is known who makes it.

For a handler of one request, gRPC reads it before anybody can look at the call, and takes as much as the largest
message has from whoever sends one. So such methods are bound as if their requests were streamed, which is the same on
the wire: of a call that has not been let in yet, gRPC holds no more than the window of its stream.
"""

import asyncio
from collections.abc import AsyncIterator

from services.common.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from services.common.grpc.metrics import REFUSED

_SECONDS = 60.0
_QUICK_SECONDS = 0.2
_MOST_SLOW = 16
_WHAT_IS_SLOW = "slow requests without a credential"
_RETRY_SECONDS = 1.0
_CANCELLED_WITHIN_SECONDS = 0.05


async def let_cancel() -> None:
    """Let gRPC cancel this task, after the last message, if its client is gone rather than done.

    Both look the same at first: no message comes. Of a client that is gone, gRPC hears at the same time.
    """
    await asyncio.sleep(_CANCELLED_WITHIN_SECONDS)


class RequestReader:
    """Reads the requests of one listener."""

    def __init__(self, seconds: float = _SECONDS, quick_seconds: float = _QUICK_SECONDS) -> None:
        """Requests come within `seconds`; of those of strangers that take longer than `quick_seconds`, the 16 that came
        last are waited for.
        """
        self._seconds = seconds
        self._quick_seconds = quick_seconds
        self._slow: dict[asyncio.Timeout, None] = {}
        """Ends the wait for each slow request; the one that is waited for longest is the first."""

    async def read(self, messages: AsyncIterator[bytes]) -> bytes:
        """Return the request of a call that has been let in.

        Raises:
            InvalidArgument: MALFORMED_MESSAGE, the call has none.
            DeadlineExceeded: STREAM_IDLE, it has not come in time.
        """
        try:
            async with asyncio.timeout(self._seconds):
                data = await anext(messages, None)
        except TimeoutError:
            raise self._late() from None
        return await _required(data)

    async def read_of_stranger(self, messages: AsyncIterator[bytes]) -> bytes:
        """Return the request of a call that anybody may make.

        Raises:
            ResourceExhausted: OVERLOADED, it is slow, and so are many that have come since.
            InvalidArgument: MALFORMED_MESSAGE, the call has none.
            DeadlineExceeded: STREAM_IDLE, it has not come in time.
        """
        return await _required(await self._next_of_stranger(messages, self._seconds))

    async def requests_of_stranger(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the requests of a stream that anybody may open, and that may rest for long between two.

        Raises:
            ResourceExhausted: OVERLOADED, as above.
        """
        while (data := await self._next_of_stranger(messages, None)) is not None:
            yield data

    async def _next_of_stranger(self, messages: AsyncIterator[bytes], seconds: float | None) -> bytes | None:
        loop = asyncio.get_running_loop()
        end = None if seconds is None else loop.time() + seconds
        limit = asyncio.timeout_at(end)
        try:
            async with limit:
                slow = loop.call_later(self._quick_seconds, self._count_slow, limit)
                try:
                    return await anext(messages, None)
                finally:
                    slow.cancel()
                    self._slow.pop(limit, None)
        except TimeoutError:
            if limit.when() == end:
                raise self._late() from None
        REFUSED.labels(_WHAT_IS_SLOW).inc()
        raise ResourceExhausted(
            f"the request has not come whole in {self._quick_seconds:g} s, and {_MOST_SLOW} others that are slow have "
            "come since; try again",
            reason="OVERLOADED",
            metadata={"limit": str(_MOST_SLOW), "counted": _WHAT_IS_SLOW},
            retry_after=_RETRY_SECONDS,
        )

    def _count_slow(self, limit: asyncio.Timeout) -> None:
        self._slow[limit] = None
        if len(self._slow) > _MOST_SLOW:
            oldest = next(iter(self._slow))
            del self._slow[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the request has not come whole in {self._seconds:g} s; send it without pauses",
            reason="STREAM_IDLE",
            metadata={"seconds": f"{self._seconds:g}"},
        )


async def _required(data: bytes | None) -> bytes:
    if data is None:
        await let_cancel()
        raise InvalidArgument("the call has no request; send one message", reason="MALFORMED_MESSAGE")
    return data

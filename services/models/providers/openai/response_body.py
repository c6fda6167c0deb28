"""Bodies of responses: how large they may be, and how slowly they may come."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog

from services.common.http import Undecodable, iter_body, read_limited
from services.models.providers.json_documents import read_json
from services.models.providers.read_limit import ReadLimit
from services.models.providers.retries import too_late
from services.models.providers.upstream_errors import bad_response, retry_after_seconds, unavailable
from services.models.providers.upstreams import Attempt

logger = structlog.get_logger(__name__)

UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError)
"""What aiohttp raises when an upstream does not answer, or no further."""
_SLICE_BYTES = 8192
_MAX_ERROR_BYTES = 64 * 1024
_ERROR_BODY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ResponseLimits:
    """How large a response may be, and how slow, before its upstream counts as gone."""

    max_bytes: int
    first_byte_seconds: float
    """Until its first byte."""
    idle_seconds: float
    """Between two bytes."""


class Stalled(TimeoutError):
    """An upstream has sent nothing for so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class ConnectionLost(Exception):
    """The connection of a response was lost within its body."""


async def read_whole(attempt: Attempt, response: aiohttp.ClientResponse, limits: ResponseLimits) -> bytes:
    """Return a body whose response is an answer that has been made.

    Raises:
        CoxswainError: it is too large, or the call has to end.
        Stalled: it comes too slowly.
        aiohttp.ClientError, OSError: the connection was lost.
    """
    async with aclosing(_pieces(attempt, response, limits, begin_by=attempt.deadline)) as pieces:
        return b"".join([piece async for piece in pieces])


async def read_pieces(
    attempt: Attempt, response: aiohttp.ClientResponse, limits: ResponseLimits
) -> AsyncGenerator[bytes, None]:
    """Yield a body in pieces that take little time to read.

    Raises:
        ConnectionLost: after the first of them.
        CoxswainError: there are too many, or they come too slowly.
        Stalled: there is none.
        aiohttp.ClientError, OSError: the connection was lost before the first of them.
    """
    begun = False
    try:
        async with aclosing(_pieces(attempt, response, limits, begin_by=attempt.answer_by)) as pieces:
            async for data in pieces:
                begun = True
                # As much as is there may hold thousands of events, and nobody else is served while they are read.
                for start in range(0, len(data), _SLICE_BYTES):
                    if start:
                        await asyncio.sleep(0)
                    yield data[start : start + _SLICE_BYTES]
    except UNREACHABLE as error:
        if not begun:
            raise
        if isinstance(error, Stalled):
            raise unavailable(attempt.model, f"sent nothing for {error.seconds:g} s") from error
        logger.info("upstream_stream_lost", model=attempt.model.name, error=type(error).__name__)
        raise ConnectionLost from error


async def read_error(response: aiohttp.ClientResponse, deadline: float) -> tuple[Any, float | None]:
    """Return the JSON body of an error, None when it is something else, and the seconds it asks to wait.

    `deadline` is when the call has to end, by the event loop's clock.
    """
    retry_after = retry_after_seconds(response.headers)
    try:
        # The status says enough where the rest does not come.
        async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + _ERROR_BODY_SECONDS)):
            body = await read_limited(response, _MAX_ERROR_BYTES)
        return read_json(body or b""), retry_after
    except (*UNREACHABLE, ValueError, RecursionError):
        return None, retry_after
    finally:
        response.close()


async def finish_reading(response: aiohttp.ClientResponse) -> None:
    """Read the end of a finished stream, so that its connection can serve the next call."""
    try:
        async with asyncio.timeout(0.1):
            while await response.content.readany():
                pass
    except UNREACHABLE:
        return


async def _pieces(
    attempt: Attempt, response: aiohttp.ClientResponse, limits: ResponseLimits, *, begin_by: float
) -> AsyncGenerator[bytes, None]:
    """Yield a body as it comes; its first byte has to come by `begin_by`, by the event loop's clock."""
    loop = asyncio.get_running_loop()
    size = 0
    body = iter_body(response)
    limit = ReadLimit()
    try:
        while True:
            seconds, latest = (limits.idle_seconds, attempt.deadline) if size else (limits.first_byte_seconds, begin_by)
            try:
                with limit.until(min(latest, loop.time() + seconds)):
                    data = await anext(body, b"")
            except Undecodable as error:
                raise bad_response(attempt.model, str(error)) from error
            except UNREACHABLE as error:
                if loop.time() >= attempt.deadline:
                    raise too_late(attempt.model) from error
                if limit.expired:
                    raise Stalled(seconds) from error
                raise
            if not data:
                return
            size += len(data)
            if size > limits.max_bytes:
                raise bad_response(attempt.model, f"it is larger than {limits.max_bytes} bytes")
            yield data
    finally:
        limit.close()

"""Calls other services as an execution, and tries again what may pass.

Neither a restart nor a provider's bad minutes must fail a task.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from services.common.backoff import Backoff
from services.common.errors import CoxswainError, DeadlineExceeded, ResourceExhausted, Unavailable
from services.common.grpc.status import from_rpc_error
from services.orchestrator.worker.host.principals import ExecutionPrincipal

T = TypeVar("T")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Waiting = Callable[[CoxswainError, float, float], object]
"""Told before each pause: the failure, the seconds of the pause, and the seconds until it is given up."""

_BACKOFF = Backoff(0.2, 5.0)
# The models service tries a call several times within seconds; these pauses come on top of its own.
_PROVIDER_PAUSES = Backoff(1.0, 30.0)
_OUTAGE_REASONS = frozenset({"UPSTREAM_UNAVAILABLE", "UPSTREAM_BAD_RESPONSE"})
# A limit begins anew each minute, or has room when calls of the group have ended; one of a day is not waited for.
_LIMIT_REASONS = frozenset({"BUDGET_EXCEEDED", "UPSTREAM_SHARE_EXCEEDED"})
_LONGEST_LIMIT_WAIT = 60.0
_LIMIT_SECONDS = 300.0


async def retry_while_absent(call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Return what `call` returns, calling again for `seconds` while the other service does not answer.

    Raises:
        CoxswainError: the other service refused, or stayed absent.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    attempt = 1
    while True:
        try:
            return await call()
        except CoxswainError as error:
            pause = _BACKOFF.pause(attempt)
            if not _is_absence(error) or loop.time() + pause > end:
                raise
        await asyncio.sleep(pause)
        attempt += 1


async def wait_for_provider(call: Callable[[], Awaitable[T]], seconds: float, waiting: Waiting) -> T:
    """Return what `call` returns, calling again, at most `seconds` after the first failure, when the model's provider
    fails in a way that passes: an outage, a lost connection, an answer that breaks off, a limit of its rate.

    Raises:
        CoxswainError: the failure is one that lasts, or the next pause would be longer than the time left.
    """
    loop = asyncio.get_running_loop()
    end: float | None = None
    attempt = 1
    while True:
        try:
            return await call()
        except CoxswainError as error:
            if not _is_providers_bad_day(error):
                raise
            now = loop.time()
            end = now + seconds if end is None else end
            pause = _PROVIDER_PAUSES.pause(attempt, at_least=error.retry_after or 0.0)
            if now + pause > end:
                raise
            waiting(error, pause, end - now)
        await asyncio.sleep(pause)
        attempt += 1


async def wait_for_limits(call: Callable[[], Awaitable[T]], waiting: Waiting | None = None) -> T:
    """Return what `call` returns, calling again when a limit of the group on model calls will soon have room.

    Raises:
        CoxswainError: the call failed for another reason, or the limit had no room for minutes.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + _LIMIT_SECONDS
    while True:
        try:
            return await call()
        except ResourceExhausted as error:
            wait = error.retry_after
            if error.reason not in _LIMIT_REASONS or wait is None or wait > _LONGEST_LIMIT_WAIT:
                raise
            # Others may wait for the same minute: they do not all come back at once.
            pause = _BACKOFF.pause(1, at_least=wait)
            if loop.time() + pause > end:
                raise
            if waiting is not None:
                waiting(error, pause, end - loop.time())
        await asyncio.sleep(pause)


async def call_peer(
    principal: ExecutionPrincipal,
    service: str,
    method: Callable[[Request], Awaitable[Response]],
    request: Request,
    seconds: float,
) -> Response:
    """Return the response of a stub's method, called as the execution and again for `seconds` while it is absent.

    Raises:
        CredentialExpired: the user's credential has expired.
        CoxswainError: the service, which errors call by its name, refused or stayed absent.
    """

    async def call() -> Response:
        try:
            return await method(request)
        except grpc.RpcError as error:
            raise from_rpc_error(error, service) from error

    return await retry_while_absent(lambda: principal.act(call), seconds)


def _is_absence(error: CoxswainError) -> bool:
    """Return whether the failure is another service's absence and not its answer."""
    return isinstance(error, Unavailable | DeadlineExceeded) and error.reason in {
        "DEPENDENCY_UNAVAILABLE",
        "OVERLOADED",
    }


def _is_providers_bad_day(error: CoxswainError) -> bool:
    """Return whether the provider behind a model failed in a way that passes."""
    if isinstance(error, ResourceExhausted):
        return error.reason == "UPSTREAM_RATE_LIMITED" and error.retry_after is not None
    return isinstance(error, Unavailable | DeadlineExceeded) and error.reason in _OUTAGE_REASONS

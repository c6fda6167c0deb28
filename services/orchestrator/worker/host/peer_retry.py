"""Calls other services as an execution, again while they do not answer: a restart must fail no task."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from services.common.backoff import Backoff
from services.common.errors import CoxswainError, DeadlineExceeded, Unavailable
from services.common.grpc.status import from_rpc_error
from services.orchestrator.worker.host.principals import ExecutionPrincipal

T = TypeVar("T")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

_BACKOFF = Backoff(0.2, 5.0)
_ABSENT = frozenset({"DEPENDENCY_UNAVAILABLE", "OVERLOADED", "SHUTTING_DOWN"})


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
            if not is_absence(error) or loop.time() + pause > end:
                raise
        await asyncio.sleep(pause)
        attempt += 1


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


def is_absence(error: CoxswainError) -> bool:
    """Return whether the failure is another service's absence and not its answer."""
    return isinstance(error, Unavailable | DeadlineExceeded) and error.reason in _ABSENT

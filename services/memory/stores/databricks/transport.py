"""Requests to a workspace, sent again until they succeed, fail for good, or no time is left."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import structlog

from services.common.backoff import Backoff
from services.common.egress import required_origin
from services.common.errors import CoxswainError, DeadlineExceeded, Unavailable
from services.common.grpc.call import current_call
from services.common.http import EgressClient, read_limited
from services.common.identity.credentials import CredentialSource
from services.common.retry_after import parse_retry_after
from services.memory.stores.databricks.upstream_errors import (
    CredentialRejected,
    bad_answer,
    credential_rejected,
    from_response,
    no_answer,
)
from services.memory.stores.databricks.wire import BadAnswer, Json, read_document

logger = structlog.get_logger(__name__)

_BACKOFF = Backoff(0.2, 10.0)
_LONGEST_ADVICE = 86_400.0
"""Seconds of `Retry-After` that are believed, at most."""
_LARGE_ANSWER = 256 * 1024
"""Bytes from which an answer is parsed off the event loop."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How much and how long; see `MemorySettings`."""

    attempts: int
    attempt_seconds: float
    call_seconds: float
    upsert_rows: int
    upsert_bytes: int
    delete_keys: int
    scan_rows: int
    response_bytes: int


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, and what it is about. Example of a subject: `index main.memories.unified`."""

    method: str
    path: str
    subject: str
    body: bytes | None = None


class Transport:
    """Calls one workspace after another, each with the calling principal's own credential."""

    def __init__(
        self,
        http: EgressClient,
        credentials: CredentialSource,
        limits: ClientLimits,
        *,
        trusted_origins: frozenset[str] = frozenset(),
    ) -> None:
        """`trusted_origins` are the operator's own workspaces: their addresses are not checked."""
        self._http = http
        self._credentials = credentials
        self._trusted_origins = trusted_origins
        self._limits = limits

    async def call(self, workspace: str, request: Request, read: Callable[[Json], _Answer]) -> _Answer:
        """Return what `read` makes of the answer; what it cannot read counts as a failed attempt.

        Every request can be repeated: rows are written and removed by their keys. What ends as `Unavailable` was tried
        as often as `ClientLimits` and the caller's deadline allow, and says when to come back.
        """
        origin = required_origin(workspace)
        deadline = self._deadline()
        credential = await self._credentials.resolve(origin)
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(origin, request, credential.token, deadline, read)
            except CredentialRejected:
                self._credentials.forget(origin)
                if not credential.from_cache or attempt > self._limits.attempts:
                    raise credential_rejected(origin, on_behalf_of_user=credential.on_behalf_of_user) from None
                credential = await self._credentials.resolve(origin)
            except _AskAgain as again:
                wait = _BACKOFF.pause(attempt, at_least=again.wait)
                if attempt >= self._limits.attempts or time.monotonic() + wait >= deadline:
                    raise again.failure from None
                logger.info("vector_search_retry", path=request.path, attempt=attempt, reason=again.failure.reason)
                await asyncio.sleep(wait)

    async def check_credential(self, workspace: str) -> None:
        """Find the credential for a workspace, and call nothing with it.

        Raises:
            CoxswainError: there is none.
        """
        await self._credentials.resolve(required_origin(workspace))

    def _deadline(self) -> float:
        remaining = current_call().time_remaining()
        allowed = self._limits.call_seconds if remaining is None else min(remaining, self._limits.call_seconds)
        return time.monotonic() + allowed

    async def _attempt(
        self, origin: str, request: Request, token: str, deadline: float, read: Callable[[Json], _Answer]
    ) -> _Answer:
        timeout = min(self._limits.attempt_seconds, deadline - time.monotonic())
        if timeout <= 0:
            raise DeadlineExceeded(f"no time was left to ask {origin}", reason="STORE_FAILED")
        headers = {"Authorization": f"Bearer {token}"}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = await self._http.request(
                request.method,
                origin + request.path,
                trusted=origin in self._trusted_origins,
                data=request.body,
                headers=headers,
                total_timeout=timeout,
            )
            async with response:
                data = await read_limited(response, self._limits.response_bytes)
        except (aiohttp.ClientError, OSError, TimeoutError):
            raise _AskAgain(no_answer(origin)) from None
        except ValueError:
            # No header can hold it.
            raise CredentialRejected("the token cannot be sent") from None
        if data is None:
            raise _AskAgain(bad_answer(origin))
        if response.status < 300:
            return await _read(data, origin, read)
        answer = await asyncio.to_thread(read_document, data) if len(data) > _LARGE_ANSWER else read_document(data)
        failure = from_response(response.status, answer, request.subject, origin, token)
        if not isinstance(failure, Unavailable):
            raise failure
        raise _AskAgain(failure, parse_retry_after(response.headers.get("Retry-After", ""), _LONGEST_ADVICE) or 0.0)


class _AskAgain(Exception):
    """An attempt failed in a way that another one may not; `wait` is the least pause before it, in seconds."""

    def __init__(self, failure: CoxswainError, wait: float = 0.0) -> None:
        super().__init__(failure.message)
        failure.retry_after = max(wait, failure.retry_after or 0.0)
        self.failure = failure
        self.wait = wait


_UNREADABLE = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)
"""What reading an answer fails with that is none, `BadAnswer` among them."""


async def _read(data: bytes, origin: str, read: Callable[[Json], _Answer]) -> _Answer:
    def parse() -> _Answer:
        document = read_document(data)
        if document is None:
            raise BadAnswer("it is not a JSON object")
        return read(document)

    try:
        return await asyncio.to_thread(parse) if len(data) > _LARGE_ANSWER else parse()
    except _UNREADABLE:
        raise _AskAgain(bad_answer(origin)) from None

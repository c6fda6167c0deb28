"""Requests to upstreams over HTTP: credentials, retries, limits of time and size."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import structlog

from services.common.errors import CoxswainError, FailedPrecondition
from services.common.http import EgressClient, read_limited
from services.common.identity.credentials import CredentialSource, OutboundCredential
from services.models.domain.model import Model
from services.models.providers.openai.events import EventParser, EventTooLarge
from services.models.providers.retries import RetryableError, RetryLimits, too_late, with_retries
from services.models.providers.upstream_errors import (
    RETRYABLE_STATUSES,
    bad_response,
    retry_after_seconds,
    status_failure,
    stream_failure,
    unavailable,
)

logger = structlog.get_logger(__name__)

T = TypeVar("T")
_MAX_ERROR_BYTES = 64 * 1024
_MAX_EVENT_BYTES = 4 * 1024 * 1024
_UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Target:
    """Where one call of a model goes."""

    model: Model
    url: str
    origin: str
    trusted: bool
    """Whether the operator chose the address."""
    deadline: float
    """By the event loop's clock."""


class OpenAIClient:
    """Sends requests over pooled connections.

    Rate limits, outages and lost connections are retried within the deadline, but nothing of which a byte of the answer
    has been passed on.
    """

    def __init__(
        self, egress: EgressClient, credentials: CredentialSource, retries: RetryLimits, max_response_bytes: int
    ) -> None:
        self._egress = egress
        self._credentials = credentials
        self._retries = retries
        self._max_response_bytes = max_response_bytes

    async def post(self, target: Target, request: dict[str, Any]) -> Any:
        """Return the JSON document that answers a request.

        Raises:
            CoxswainError: the upstream refused, failed, or returned something else.
        """
        body, _ = await self._send(target, _encode(request), self._read_all)
        try:
            return json.loads(body)
        except ValueError as error:
            raise bad_response(target.model, "it is not valid JSON") from error

    async def stream(self, target: Target, request: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """Yield the JSON documents of a stream, until it ends by its mark, its end or a lost connection.

        Raises:
            CoxswainError: the upstream refused, failed, reported an error, or sent something else.
        """
        response, credential = await self._send(target, _encode(request), _opened)
        try:
            async for document in self._events(target, response):
                if isinstance(document, dict) and ("error" in document or "error_code" in document):
                    raise stream_failure(target.model, document, credential)
                yield document
        finally:
            # Closes the connection, unless it was read to its end and given back before: the upstream stops writing.
            response.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._egress.close()

    async def _read_all(self, target: Target, response: aiohttp.ClientResponse) -> bytes:
        limit = self._max_response_bytes
        try:
            if (body := await read_limited(response, limit)) is None:
                raise bad_response(target.model, f"it is larger than {limit} bytes")
            return body
        finally:
            response.close()

    async def _send(
        self,
        target: Target,
        body: bytes,
        take: Callable[[Target, aiohttp.ClientResponse], Awaitable[T]],
    ) -> tuple[T, OutboundCredential]:
        """Send until `take` got what it needs from a successful response, or a retry makes no sense."""
        provider = target.model.spec.provider.value

        async def attempt() -> tuple[T, OutboundCredential]:
            credential = await self._credentials.resolve(target.origin, provider)
            try:
                return await self._attempt(target, body, credential, take), credential
            except CoxswainError as failure:
                if failure.reason != "UPSTREAM_CREDENTIAL_REJECTED":
                    raise
                self._credentials.forget(target.origin, provider)
                if not credential.from_cache:
                    raise
            # What was remembered may have been replaced since; a fresh one is refused for good.
            credential = await self._credentials.resolve(target.origin, provider)
            return await self._attempt(target, body, credential, take), credential

        return await with_retries(target.model, attempt, self._retries, target.deadline)

    async def _attempt(
        self,
        target: Target,
        body: bytes,
        credential: OutboundCredential,
        take: Callable[[Target, aiohttp.ClientResponse], Awaitable[T]],
    ) -> T:
        headers = {"Content-Type": "application/json"}
        if credential.token:
            headers["Authorization"] = f"Bearer {credential.token}"
        limit = asyncio.timeout_at(target.deadline)
        try:
            async with limit:
                response = await self._egress.request(
                    "POST", target.url, trusted=target.trusted, data=body, headers=headers
                )
                if response.status == 200:
                    return await take(target, response)
                document, retry_after = await _read_error(response)
        except aiohttp.InvalidURL as error:
            raise FailedPrecondition(
                f'the address of "{target.model.name}" cannot be called; correct its base_url',
                reason="UPSTREAM_REJECTED",
                metadata={"model": target.model.name},
            ) from error
        except _UNREACHABLE as error:
            if limit.expired():
                raise too_late(target.model) from error
            logger.info("upstream_unreachable", model=target.model.name, error=type(error).__name__)
            raise RetryableError(unavailable(target.model, "did not answer")) from error
        failure = status_failure(target.model, response.status, document, credential, retry_after)
        # An exhausted quota is reported as a rate limit without a time after which it would be over.
        if response.status in RETRYABLE_STATUSES and failure.retry_after is not None:
            raise RetryableError(failure, retry_after or 0.0)
        raise failure

    async def _events(self, target: Target, response: aiohttp.ClientResponse) -> AsyncGenerator[Any, None]:
        model = target.model
        if response.content_type != "text/event-stream":
            raise bad_response(model, f"it is {response.content_type}, not a stream of events")
        parser = EventParser(_MAX_EVENT_BYTES)
        size = 0
        while True:
            limit = asyncio.timeout_at(target.deadline)
            try:
                async with limit:
                    data = await response.content.readany()
                events = parser.feed(data) if data else parser.finish()
            except EventTooLarge as error:
                raise bad_response(model, "an event of its stream is too large") from error
            except _UNREACHABLE as error:
                if limit.expired():
                    raise too_late(model) from error
                return
            size += len(data)
            if size > self._max_response_bytes:
                raise bad_response(model, f"it is larger than {self._max_response_bytes} bytes")
            for event in events:
                if event.strip() == "[DONE]":
                    await _finish_reading(response)
                    return
                try:
                    document = json.loads(event)
                except ValueError as error:
                    raise bad_response(model, "an event of its stream is not valid JSON") from error
                yield document
            if not data:
                return


def _encode(request: dict[str, Any]) -> bytes:
    return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()


async def _opened(_target: Target, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    return response


async def _read_error(response: aiohttp.ClientResponse) -> tuple[Any, float | None]:
    """Return the JSON body of an error, None when it is something else, and the seconds it asks to wait."""
    retry_after = retry_after_seconds(response.headers.get("Retry-After"))
    try:
        body = await read_limited(response, _MAX_ERROR_BYTES)
    finally:
        response.close()
    try:
        return json.loads(body or b""), retry_after
    except ValueError:
        return None, retry_after


async def _finish_reading(response: aiohttp.ClientResponse) -> None:
    """Read the end of a finished stream, so that its connection can serve the next call."""
    try:
        async with asyncio.timeout(0.1):
            while await response.content.readany():
                pass
    except _UNREACHABLE:
        return

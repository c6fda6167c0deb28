"""Requests to upstreams over HTTP: credentials, limits of time and size."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import structlog
from aiohttp.abc import AbstractStreamWriter

from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied
from services.common.grpc.call import current_principal
from services.common.http import EgressClient
from services.common.identity.credentials import CredentialSource, OutboundCredential
from services.common.identity.provider_credentials import WrongForm, check_key
from services.models.domain.model import Model
from services.models.providers.fault_reading import holds_fault, read_fault
from services.models.providers.group_shares import GroupShares
from services.models.providers.json_documents import read_json, write_json
from services.models.providers.lost_work import report_lost_work
from services.models.providers.openai.events import EventParser, EventTooLarge
from services.models.providers.openai.response_body import (
    UNREACHABLE,
    ConnectionLost,
    ResponseLimits,
    Stalled,
    finish_reading,
    read_error,
    read_pieces,
    read_whole,
)
from services.models.providers.read_limit import ReadLimit
from services.models.providers.retries import RetryableError, too_late
from services.models.providers.upstream_errors import (
    bad_response,
    is_retryable,
    unavailable,
    unresolved,
    unusable_credential,
    upstream_failure,
)
from services.models.providers.upstreams import Attempt

logger = structlog.get_logger(__name__)

S = TypeVar("S")
T = TypeVar("T")
_MAX_EVENT_BYTES = 4 * 1024 * 1024
_END = "[DONE]"
# White space and the mark of the byte order, which may stand before a document.
_BEFORE_TEXT = b" \t\r\n\xef\xbb\xbf"


@dataclass(slots=True)
class Target:
    """Where one attempt of a call goes."""

    attempt: Attempt
    url: str
    origin: str
    trusted: bool
    """Whether the operator chose the address."""
    key_header: str = ""
    """Header that holds the key; empty means `Authorization`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What else the upstream wants to know."""
    credential_of: str = ""
    """Whose credential it takes; empty means the model's provider."""

    @property
    def model(self) -> Model:
        """The model, as the chosen deployment serves it."""
        return self.attempt.model


class _Body(aiohttp.BytesPayload):
    """A request's body that knows whether it has been sent: from then on the upstream works."""

    sent = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await super().write_with_length(writer, content_length)
        self.sent = True


class _ReportingLoss:
    """Reports the work of an upstream that has begun its answer when the answer does not come whole."""

    __slots__ = ("_report", "_target")

    def __init__(self, report: Callable[[Target], None], target: Target) -> None:
        self._report = report
        self._target = target

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._report(self._target)


_Take = Callable[[Target, aiohttp.ClientResponse, OutboundCredential], Awaitable[T]]


class OpenAIClient:
    """Sends requests over pooled connections, each of them once."""

    def __init__(
        self,
        egress: EgressClient,
        credentials: CredentialSource,
        limits: ResponseLimits,
        shares: GroupShares,
        *,
        idempotent_origins: frozenset[str] = frozenset(),
    ) -> None:
        """`idempotent_origins` are those that answer a repeated `Idempotency-Key` with their first answer."""
        self._egress = egress
        self._credentials = credentials
        self._limits = limits
        self._shares = shares
        self._idempotent_origins = idempotent_origins

    async def post(self, target: Target, request: dict[str, Any]) -> Any:
        """Return the JSON document that answers a request.

        Raises:
            CoxswainError: the upstream refused, failed, or returned something else.
            RetryableError: it failed in a way that may pass.
        """
        async with self._shares.slot(target.origin, current_principal().group_id):
            return await self._send(target, write_json(request), self._read_document)

    async def stream(self, target: Target, request: dict[str, Any]) -> AsyncGenerator[list[Any], None]:
        """Yield the JSON documents of a stream, those together that came together, until it ends by its mark, its end
        or a lost connection.

        An upstream that sends its answer as a whole is a stream of one document.

        Raises:
            CoxswainError: the upstream refused, failed, reported an error, or sent something else.
            RetryableError: it failed in a way that may pass before its first document.
        """
        async with self._shares.slot(target.origin, current_principal().group_id):
            batch, batches, credential = await self._send(target, write_json(request), self._begin_stream)
            async with aclosing(batches):
                while batch and not any(map(holds_fault, batch)):
                    yield batch
                    batch = await anext(batches, [])
                good, failure = _until_failure(
                    batch, lambda document: _check_for_fault(target.model, document, credential)
                )
                if good:
                    yield batch[: len(good)]
                if isinstance(failure, RetryableError):
                    raise failure.failure from failure.__cause__
                if failure is not None:
                    raise failure

    async def close(self) -> None:
        """Close all connections."""
        await self._egress.close()

    def _report_loss(self, target: Target) -> None:
        if target.origin in self._idempotent_origins:
            # Asked again, it gives what it has made: that is lost only where the call ends without it.
            target.attempt.losses[target.attempt.deployment] = target.model
        else:
            report_lost_work(target.model)

    async def _read_document(
        self, target: Target, response: aiohttp.ClientResponse, credential: OutboundCredential
    ) -> Any:
        with _ReportingLoss(self._report_loss, target):
            try:
                body = await read_whole(target.attempt, response, self._limits)
            except UNREACHABLE as error:
                if target.origin in self._idempotent_origins:
                    raise
                # The answer was made, and is billed: a repetition would be billed again.
                what = f"sent nothing for {error.seconds:g} s" if isinstance(error, Stalled) else "broke off its answer"
                raise unavailable(target.model, what) from error
            finally:
                response.close()
            document = _parse(target.model, body, "it is")
        _check_for_fault(target.model, document, credential)
        return document

    async def _begin_stream(
        self, target: Target, response: aiohttp.ClientResponse, credential: OutboundCredential
    ) -> tuple[list[Any], AsyncGenerator[list[Any], None], OutboundCredential]:
        """Wait for the first documents, so that an error in their place is retried as one in place of the stream.

        Returns them, those that follow, and the credential they were asked for with.
        """
        batches = self._batches(target, response)
        try:
            with _ReportingLoss(self._report_loss, target):
                first: list[Any] = await anext(batches, [])
            if first:
                _check_for_fault(target.model, first[0], credential)
        except BaseException:
            await batches.aclose()
            raise
        return first, batches, credential

    async def _send(self, target: Target, body: bytes, take: _Take[T]) -> T:
        """Send, and once more with a fresh credential where a remembered one is refused."""
        provider = target.credential_of or target.model.spec.provider.value
        credential = await self._credentials.resolve(target.origin, provider)
        try:
            return await self._attempt(target, body, credential, take)
        except CoxswainError as failure:
            if failure.reason != "UPSTREAM_CREDENTIAL_REJECTED":
                raise
            self._credentials.forget(target.origin, provider)
            # A fresh one is refused for good, and so is what a valid one may not do.
            if not credential.from_cache or failure.metadata.get("http_status") == "403":
                raise
        credential = await self._credentials.resolve(target.origin, provider)
        return await self._attempt(target, body, credential, take)

    async def _attempt(self, target: Target, body: bytes, credential: OutboundCredential, take: _Take[T]) -> T:
        try:
            check_key(credential.token)
        except WrongForm as wrong:
            raise unusable_credential(target.model, wrong) from None
        headers = {"Content-Type": "application/json", **target.headers}
        if credential.token and target.key_header:
            headers[target.key_header] = credential.token
        elif credential.token:
            headers["Authorization"] = f"Bearer {credential.token}"
        if target.origin in self._idempotent_origins:
            headers["Idempotency-Key"] = target.attempt.idempotency_key
        target.attempt.credential = credential
        payload = _Body(body)
        limit = ReadLimit()
        try:
            first_byte_by = asyncio.get_running_loop().time() + self._limits.first_byte_seconds
            with limit.until(min(target.attempt.answer_by, first_byte_by)):
                try:
                    response = await self._egress.request(
                        "POST", target.url, trusted=target.trusted, data=payload, headers=headers
                    )
                except (asyncio.CancelledError, *UNREACHABLE):
                    # The upstream goes on when we give up, and may have begun when the connection is lost: it has it
                    # paid for.
                    if payload.sent:
                        self._report_loss(target)
                    raise
                except ValueError as error:
                    raise _uncallable(target.model) from error
            if 200 <= response.status < 300:
                return await take(target, response, credential)
            document, retry_after = await read_error(response, target.attempt.deadline)
        except aiohttp.InvalidURL as error:
            raise _uncallable(target.model) from error
        except PermissionDenied as refusal:
            raise _elsewhere(target.model, refusal) from None
        except UNREACHABLE as error:
            now = asyncio.get_running_loop().time()
            if now >= target.attempt.deadline:
                raise too_late(target.model) from error
            logger.info("upstream_unreachable", model=target.model.name, error=type(error).__name__)
            silent = limit.expired or type(error) in (TimeoutError, Stalled)
            # One whose time is over because another model waits to take over may be well.
            ours = now >= target.attempt.answer_by
            if isinstance(error, aiohttp.ClientConnectorDNSError):
                raise RetryableError(unresolved(target.model, error.host), ours=ours) from error
            what = "sent nothing for too long" if silent else "did not answer"
            raise RetryableError(unavailable(target.model, what), ours=ours) from error
        finally:
            limit.close()
        fault = read_fault(response.status, document)
        failure = upstream_failure(target.model, fault, credential, retry_after)
        if is_retryable(fault):
            raise RetryableError(failure, fault.retry_after or 0.0 if retry_after is None else retry_after)
        raise failure

    async def _batches(self, target: Target, response: aiohttp.ClientResponse) -> AsyncGenerator[list[Any], None]:
        """Yield the JSON documents of a response as they come: of its events, or the one that it is as a whole."""
        model = target.model
        pieces = read_pieces(target.attempt, response, self._limits)
        parser = EventParser(_MAX_EVENT_BYTES)
        lost: ConnectionLost | None = None
        found = False
        try:
            async with aclosing(pieces):
                piece = await anext(pieces, b"")
                # The first byte decides what a response is: labels are often wrong.
                if piece.lstrip(_BEFORE_TEXT)[:1] in (b"{", b"["):
                    try:
                        whole = piece + b"".join([more async for more in pieces])
                    except ConnectionLost as error:
                        raise _broken_off(model) from error
                    yield [_parse(model, whole, "it is")]
                    return
                while True:
                    events = _events(model, parser, piece)
                    if lost is not None:
                        events = [event for event in events if event.strip() == _END or _is_whole(event)]
                    batch, failure, ended = _read_events(model, events)
                    if batch:
                        found = True
                        yield batch
                    if failure is not None:
                        raise failure
                    if ended:
                        await finish_reading(response)
                        return
                    if not piece:
                        break
                    try:
                        piece = await anext(pieces, b"")
                    except ConnectionLost as error:
                        lost, piece = error, b""
            if not found and lost is not None:
                raise _broken_off(model) from lost
            # What came before a connection was lost is an answer where it says so itself.
            if not found:
                raise bad_response(model, f"it is {response.content_type}, not a stream of events")
        finally:
            # Closes the connection, unless it was read to its end and given back before: the upstream stops writing.
            response.close()


def _events(model: Model, parser: EventParser, piece: bytes) -> list[str]:
    """Return the events that a piece of a response completes, or its end when the piece is empty."""
    try:
        return parser.feed(piece) if piece else parser.finish()
    except EventTooLarge as error:
        raise bad_response(model, "an event of its stream is too large") from error


def _read_events(model: Model, events: Sequence[str]) -> tuple[list[Any], CoxswainError | None, bool]:
    """Return the documents of events up to the first that is none, its failure, and whether the stream's end came."""
    documents: list[Any] = []
    for event in events:
        text = event.strip()
        if text == _END:
            return documents, None, True
        if not text:
            continue
        try:
            documents.append(_parse(model, text, "an event of its stream is"))
        except CoxswainError as failure:
            return documents, failure, False
    return documents, None, False


def _is_whole(event: str) -> bool:
    try:
        read_json(event)
    except (ValueError, RecursionError):
        return False
    return True


def _uncallable(model: Model) -> CoxswainError:
    return FailedPrecondition(
        f'the address of "{model.name}" cannot be called; correct its base_url',
        reason="UPSTREAM_REJECTED",
        metadata={"model": model.name},
    )


def _elsewhere(model: Model, refusal: PermissionDenied) -> CoxswainError:
    return PermissionDenied(
        f'"{model.name}" cannot be called: {refusal.message}',
        reason=refusal.reason,
        metadata={**refusal.metadata, "model": model.name},
    )


def _broken_off(model: Model) -> CoxswainError:
    return unavailable(model, "closed the connection before its answer was complete")


def _until_failure(items: Sequence[S], take: Callable[[S], T]) -> tuple[list[T], Exception | None]:
    """Return what `take` gives for the items before the first that it refuses, and that refusal."""
    taken: list[T] = []
    for item in items:
        try:
            taken.append(take(item))
        except (CoxswainError, RetryableError) as failure:
            return taken, failure
    return taken, None


def _check_for_fault(model: Model, document: Any, credential: OutboundCredential) -> None:
    """Raise what an error in the place of an answer stands for."""
    if not holds_fault(document):
        return
    fault = read_fault(200, document)
    failure = upstream_failure(model, fault, credential)
    if is_retryable(fault):
        raise RetryableError(failure, fault.retry_after or 0.0)
    raise failure


def _parse(model: Model, text: str | bytes, what: str) -> Any:
    try:
        return read_json(text)
    except RecursionError:
        raise bad_response(model, f"{what} nested too deeply") from None
    except ValueError as error:
        raise bad_response(model, f"{what} not valid JSON") from error

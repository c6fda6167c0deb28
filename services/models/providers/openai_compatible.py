"""Upstreams that speak OpenAI's HTTP interface: OpenAI, Databricks model serving, vLLM, Ollama, gateways."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import structlog

from services.common.egress import required_origin
from services.common.errors import CoxswainError, FailedPrecondition
from services.common.identity.credentials import CredentialSource, OutboundCredential
from services.models.domain.answer import Answer, Delta, Embeddings, FinishDelta, ToolCallDelta, UsageDelta
from services.models.domain.conversation import Completion, Message
from services.models.domain.model import Model, Provider
from services.models.domain.tokens import estimate_prompt_tokens
from services.models.domain.usage import Usage
from services.models.egress import Egress
from services.models.providers.base import TokenCount
from services.models.providers.batches import embed_in_batches
from services.models.providers.openai_wire import (
    BadResponse,
    chat_request,
    embeddings_request,
    read_answer,
    read_chunk,
    read_embeddings,
    read_finish,
)
from services.models.providers.retries import RetryLimits, TryAgain, too_late, with_retries
from services.models.providers.sse import EventParser, EventTooLarge
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
_READ_BYTES = 64 * 1024
_UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is sent and taken at once."""

    max_response_bytes: int
    embed_batch_size: int
    embed_concurrency: int


@dataclass(frozen=True, slots=True)
class _Target:
    model: Model
    url: str
    origin: str
    trusted: bool
    deadline: float
    """By the event loop's clock."""


class OpenAICompatibleProvider:
    """Calls upstreams directly over pooled connections.

    Rate limits, outages and lost connections are tried again within the deadline, but nothing of which a byte of the
    answer has been passed on.
    """

    def __init__(
        self,
        egress: Egress,
        credentials: CredentialSource,
        base_urls: Mapping[Provider, str],
        retries: RetryLimits,
        sizes: Sizes,
    ) -> None:
        """`base_urls` are the installation's defaults; an empty one means that there is none."""
        self._egress = egress
        self._credentials = credentials
        self._base_urls = base_urls
        self._retries = retries
        self._sizes = sizes

    async def complete(self, model: Model, completion: Completion) -> Answer:
        """Return the upstream's whole answer."""
        target = self._target(model, "chat/completions")
        document = await self._post_json(target, chat_request(model, completion, stream=False))
        try:
            return read_answer(document)
        except BadResponse as error:
            raise bad_response(model, str(error)) from error

    async def stream(self, model: Model, completion: Completion) -> AsyncGenerator[Delta, None]:
        """Yield the upstream's answer as it comes."""
        target = self._target(model, "chat/completions")
        body = _encode(chat_request(model, completion, stream=True))
        response, credential = await self._send(target, body, _opened)
        try:
            async for delta in self._deltas(target, response, credential):
                yield delta
        finally:
            # Closes the connection, unless it was read to its end and given back before: the upstream stops writing.
            response.close()

    async def embed(self, model: Model, texts: Sequence[str]) -> Embeddings:
        """Return unit-length vectors, fetched in batches."""
        target = self._target(model, "embeddings")

        async def fetch(batch: Sequence[str]) -> Embeddings:
            document = await self._post_json(target, embeddings_request(model, batch))
            try:
                return read_embeddings(document, len(batch))
            except BadResponse as error:
                raise bad_response(model, str(error)) from error

        sizes = self._sizes
        return await embed_in_batches(model, texts, fetch, size=sizes.embed_batch_size, at_once=sizes.embed_concurrency)

    async def count_tokens(self, _model: Model, messages: Sequence[Message]) -> TokenCount:
        """Return an estimate: the interface has no way to ask."""
        return TokenCount(estimate_prompt_tokens(messages), exact=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._egress.close()

    def _target(self, model: Model, path: str) -> _Target:
        own = model.spec.base_url
        base_url = own or self._base_urls.get(model.spec.provider, "")
        if not base_url:
            setting = "DATABRICKS_HOST" if model.spec.provider is Provider.DATABRICKS else "OPENAI_BASE_URL"
            raise FailedPrecondition(
                f'"{model.name}" has no base_url, and this installation no address for its provider ({setting}); '
                "set one of them",
                reason="UPSTREAM_REJECTED",
                metadata={"model": model.name},
            )
        return _Target(
            model=model,
            url=f"{base_url.rstrip('/')}/{path}",
            origin=required_origin(base_url),
            trusted=model.shared or not own,
            deadline=self._retries.deadline(),
        )

    async def _post_json(self, target: _Target, request: dict[str, Any]) -> Any:
        body, _ = await self._send(target, _encode(request), self._read_all)
        try:
            return json.loads(body)
        except ValueError as error:
            raise bad_response(target.model, "it is no JSON") from error

    async def _read_all(self, target: _Target, response: aiohttp.ClientResponse) -> bytes:
        limit = self._sizes.max_response_bytes
        try:
            if (body := await _read_at_most(response, limit)) is None:
                raise bad_response(target.model, f"it is larger than {limit} bytes")
            return body
        finally:
            response.close()

    async def _send(
        self,
        target: _Target,
        body: bytes,
        take: Callable[[_Target, aiohttp.ClientResponse], Awaitable[T]],
    ) -> tuple[T, OutboundCredential]:
        """Send until `take` got what it wants out of a successful response, or trying again makes no sense."""
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
        target: _Target,
        body: bytes,
        credential: OutboundCredential,
        take: Callable[[_Target, aiohttp.ClientResponse], Awaitable[T]],
    ) -> T:
        headers = {"Authorization": f"Bearer {credential.token}"} if credential.token else {}
        limit = asyncio.timeout_at(target.deadline)
        try:
            async with limit:
                response = await self._egress.post(target.url, body, headers, trusted=target.trusted)
                if response.status == 200:
                    return await take(target, response)
                document, retry_after = await _read_error(response)
        except aiohttp.InvalidURL as error:
            raise FailedPrecondition(
                f'the address of "{target.model.name}" is none that can be called; correct its base_url',
                reason="UPSTREAM_REJECTED",
                metadata={"model": target.model.name},
            ) from error
        except _UNREACHABLE as error:
            if limit.expired():
                raise too_late(target.model) from error
            logger.info("upstream_unreachable", model=target.model.name, error=type(error).__name__)
            raise TryAgain(unavailable(target.model, "did not answer")) from error
        failure = status_failure(target.model, response.status, document, credential, retry_after)
        # A used-up quota comes as a rate limit, without a time after which it would be over.
        if response.status in RETRYABLE_STATUSES and failure.retry_after is not None:
            raise TryAgain(failure, retry_after or 0.0)
        raise failure

    async def _deltas(
        self, target: _Target, response: aiohttp.ClientResponse, credential: OutboundCredential
    ) -> AsyncGenerator[Delta, None]:
        model = target.model
        usage: Usage | None = None
        finish: str | None = None
        upstream_model = ""
        calls_tools = False
        async for document in self._events(target, response):
            if document is None:
                break
            if isinstance(document, dict) and ("error" in document or "error_code" in document):
                raise stream_failure(model, document, credential)
            try:
                chunk = read_chunk(document)
            except BadResponse as error:
                raise bad_response(model, str(error)) from error
            usage = chunk.usage or usage
            finish = chunk.finish or finish
            upstream_model = chunk.upstream_model or upstream_model
            for delta in chunk.deltas:
                calls_tools = calls_tools or isinstance(delta, ToolCallDelta)
                yield delta
        if finish is None:
            raise bad_response(model, "its stream broke off before the finish")
        if usage is not None:
            yield UsageDelta(usage)
        yield FinishDelta(read_finish(finish, has_tool_calls=calls_tools), upstream_model)

    async def _events(self, target: _Target, response: aiohttp.ClientResponse) -> AsyncGenerator[Any, None]:
        """Yield the JSON documents of a stream; None when it ends: by its mark, its end or a lost connection."""
        model = target.model
        if response.content_type != "text/event-stream":
            raise bad_response(model, f"it is {response.content_type}, not a stream of events")
        parser = EventParser(_MAX_EVENT_BYTES)
        read = 0
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
                yield None
                return
            read += len(data)
            if read > self._sizes.max_response_bytes:
                raise bad_response(model, f"it is larger than {self._sizes.max_response_bytes} bytes")
            for event in events:
                if event.strip() == "[DONE]":
                    await _finish_reading(response)
                    yield None
                    return
                try:
                    document = json.loads(event)
                except ValueError as error:
                    raise bad_response(model, "an event of its stream is no JSON") from error
                yield document
            if not data:
                yield None
                return


def _encode(request: dict[str, Any]) -> bytes:
    return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()


async def _opened(_target: _Target, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    return response


async def _read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """Return the body, or None when it is larger."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(_READ_BYTES):
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
    return b"".join(parts)


async def _read_error(response: aiohttp.ClientResponse) -> tuple[Any, float | None]:
    """Return an error's JSON body, if it is one, and the seconds it asks to wait."""
    retry_after = retry_after_seconds(response.headers.get("Retry-After"))
    try:
        body = await _read_at_most(response, _MAX_ERROR_BYTES)
    finally:
        response.close()
    try:
        return json.loads(body or b""), retry_after
    except ValueError:
        return None, retry_after


async def _finish_reading(response: aiohttp.ClientResponse) -> None:
    """Take the end of a finished stream, so that its connection can serve the next call."""
    try:
        async with asyncio.timeout(0.1):
            while await response.content.readany():
                pass
    except _UNREACHABLE:
        return

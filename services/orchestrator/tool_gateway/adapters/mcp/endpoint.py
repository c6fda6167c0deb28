"""One MCP address: requests pass the egress guard and are sent once, and what comes back is read within bounds."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any
from urllib.parse import urljoin

import aiohttp

from services.common.bounded_json import parse_json
from services.common.egress import origin_of
from services.common.errors import CoxswainError
from services.common.http import BeforeSend, EgressClient, iter_body, read_limited
from services.common.identity.principal import Principal
from services.common.storable import storable
from services.common.tracing.http_spans import traced_headers
from services.orchestrator.domain.tool_source import ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.mcp.faults import CredentialRefused, HttpRefusal, RpcError
from services.orchestrator.tool_gateway.adapters.mcp.messages import error_in, messages_in
from services.orchestrator.tool_gateway.adapters.mcp.sse import EventDecoder, EventTooLarge, ServerEvent
from services.orchestrator.tool_gateway.http_bodies import forms_of, secrets_of, without
from services.orchestrator.tool_gateway.http_statuses import parse_retry_after
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown, RequestCredentials

JSON_TYPE = "application/json"
STREAM_TYPE = "text/event-stream"

_MAX_REDIRECTS = 3
# Too early, too many: sent instead of doing the work.
_NOT_NOW = frozenset({425, 429})
# Time-outs, of a server that waited for a request or was left by its client, as some proxies say.
_LEAVE_OPEN = frozenset({408, 499})
# Of a stream: the shortest lines cost as much as long ones.
_MAX_LINES = 200_000
_SLICE_BYTES = 8 * 1024
_MAX_REFUSAL_BYTES = 64 * 1024
_REFUSAL_SECONDS = 10


class AnswerTooLarge(Exception):
    """The server has answered, with more bytes than are read."""


class Endpoint:
    """The address of a source, as one principal reaches it."""

    def __init__(
        self,
        egress: EgressClient,
        credentials: RequestCredentials,
        source: ToolSourceSpec,
        principal: Principal,
        url: str,
        max_bytes: int,
    ) -> None:
        """`max_bytes` are read of an answer."""
        self._egress = egress
        self._max_bytes = max_bytes
        self._secret_forms: tuple[str, ...] = ()
        self._credentials = credentials
        self.source = source
        self.principal = principal
        self.url = url
        self.origin = origin_of(url) or "the server"

    def act_for(self, source: ToolSourceSpec, principal: Principal) -> None:
        """Send what follows on behalf of this principal."""
        self.source, self.principal = source, principal

    def sibling(self, url: str) -> "Endpoint":
        """Return another address of the same origin.

        Raises:
            CallRefused: it is of another origin.
        """
        if origin_of(url) != origin_of(self.url):
            raise CallRefused(
                f"{self.origin} names an address of another origin, which is not called",
                reason="DESTINATION_NOT_ALLOWED",
            )
        return Endpoint(self._egress, self._credentials, self.source, self.principal, url, self._max_bytes)

    async def credential_digest(self) -> str:
        """Return what stands for the credential that requests carry now.

        Raises:
            CallRefused: there is none.
        """
        headers = await self._credential(self.url)
        parts = sorted((name.lower(), value) for name, value in {**self.source.headers, **headers}.items())
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def traced(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters of a request with the trace it belongs to, if its host is to continue that."""
        meta = traced_headers(self.url, {})
        return {**params, "_meta": {**params.get("_meta", {}), **meta}} if meta else params

    async def send(
        self,
        method: str,
        headers: Mapping[str, str],
        data: bytes | None = None,
        *,
        before_send: BeforeSend | None = None,
        seconds: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request once and return a response of status 2xx with its body unread.

        With `before_send`, see `EgressClient.request`, it has a connection of its own.

        Raises:
            NotSent, CallRefused, HttpRefusal: the server has not acted on it.
            OutcomeUnknown: it may have.
        """
        url, renewed = self.url, False
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._request(method, url, headers, data, before_send=before_send, seconds=seconds)
            if 200 <= response.status < 300:
                return response
            try:
                if response.status == 401 and not renewed and await self._renews_credential():
                    renewed = True
                    continue
                if response.status not in (307, 308):
                    raise await self._failure(response)
                url = self._redirected(url, response.headers.get("Location", ""))
            finally:
                response.close()
        raise CallRefused(f"{self.origin} redirects more than {_MAX_REDIRECTS} times", reason="TOOL_UNAVAILABLE")

    async def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes | None,
        *,
        before_send: BeforeSend | None,
        seconds: float | None,
    ) -> aiohttp.ClientResponse:
        credential = await self._credential(url)
        try:
            return await self._egress.request(
                method,
                url,
                trusted=False,
                data=data,
                headers={**self.source.headers, **credential, **headers},
                total_timeout=seconds,
                before_send=before_send,
            )
        except CoxswainError as error:
            raise CallRefused(error.message, reason=error.reason) from error
        except aiohttp.InvalidURL as error:
            raise CallRefused("the address of the source cannot be called", reason="DESTINATION_NOT_ALLOWED") from error
        except ValueError as error:
            raise CallRefused(
                "the request cannot be written: a header of the source or of the tool's arguments is not allowed",
                reason="TOOL_UNAVAILABLE",
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(f"{self.origin} cannot be reached: {_kind_of(error)}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise OutcomeUnknown(f"the connection to {self.origin} ended before an answer came") from error

    async def _renews_credential(self) -> bool:
        """Whether there is another credential than the one that was refused."""
        refused = await self.credential_digest()
        self._credentials.forget(self.source, self.principal)
        return await self.credential_digest() != refused

    async def _credential(self, url: str) -> Mapping[str, str]:
        try:
            headers = await self._credentials.headers(self.source, self.principal, url)
        except CoxswainError as error:
            raise CallRefused(error.message, reason=error.reason) from error
        self._secret_forms = forms_of(secrets_of(headers.values()))
        return headers

    def text(self, text: str) -> str:
        """Return a text of the server as it may be kept: without what authenticated the request, and valid."""
        return without(storable(text), self._secret_forms)

    def _redirected(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        if not location or origin_of(target) != origin_of(self.url):
            raise CallRefused(
                f"{self.origin} redirects to another origin, where nothing is sent: name the address that answers",
                reason="DESTINATION_NOT_ALLOWED",
            )
        return target

    async def _failure(self, response: aiohttp.ClientResponse) -> Exception:
        status = response.status
        if status in (401, 403):
            return CredentialRefused(
                f"{self.origin} refused the credential (HTTP {status})", response.headers.get("WWW-Authenticate", "")
            )
        if status in _NOT_NOW:
            return NotSent(
                f"{self.origin} takes no more calls now (HTTP {status})",
                retry_after=parse_retry_after(response.headers.get("Retry-After", "")),
            )
        if status in _LEAVE_OPEN:
            return OutcomeUnknown(f"{self.origin} answered HTTP {status}, which leaves open what it has done")
        if 400 <= status < 500:
            error, names_request = await self._error_body(response)
            return HttpRefusal(status, error, error_names_request=names_request)
        if 300 <= status < 400:
            return CallRefused(
                f"{self.origin} redirects to another address (HTTP {status}): name the address that answers",
                reason="TOOL_UNAVAILABLE",
            )
        # Proxies answer 502, 503 and 504 as well when the server has taken the message and then broken off.
        return OutcomeUnknown(f"{self.origin} answered HTTP {status}, which leaves open what it has done")

    async def _error_body(self, response: aiohttp.ClientResponse) -> tuple[RpcError | None, bool]:
        """Return the JSON-RPC error in the body of a refusal, and whether it names a request."""
        try:
            async with asyncio.timeout(_REFUSAL_SECONDS):
                body = await read_limited(response, _MAX_REFUSAL_BYTES)
            message = await parse_json(body or b"", self.text)
        except (ValueError, aiohttp.ClientError, OSError, TimeoutError):
            return None, False
        if not isinstance(message, dict):
            return None, False
        # All requests have numbers for ids; what servers write where they know none may be a text.
        return error_in(message), isinstance(message.get("id"), int)

    async def messages(self, response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any], None]:
        """Iterate over the messages in a response, which is closed at the end.

        Raises:
            AnswerTooLarge: an answer has more bytes than are read.
            OutcomeUnknown: the connection was lost, or what came is no message.
        """
        content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_type == STREAM_TYPE:
            async with contextlib.aclosing(self.events(response)) as events:
                async for event in events:
                    for message in await event_messages(event, self.text):
                        yield message
        elif content_type in (JSON_TYPE, ""):
            for message in messages_in(await self._document(response)):
                yield message
        else:
            response.close()
            raise OutcomeUnknown(f'{self.origin} answered with content of type "{content_type[:100]}"')

    async def events(self, response: aiohttp.ClientResponse) -> AsyncGenerator[ServerEvent, None]:
        """Iterate over the events of a stream, which is closed at the end.

        Raises:
            AnswerTooLarge, OutcomeUnknown: see `messages`.
        """
        decoder = EventDecoder(self._max_bytes)
        size = 0
        try:
            async for data in iter_body(response):
                size += len(data)
                for start in range(0, len(data), _SLICE_BYTES):
                    for event in decoder.feed(data[start : start + _SLICE_BYTES]):
                        yield event
                    if size > 2 * self._max_bytes or decoder.lines > _MAX_LINES:
                        raise OutcomeUnknown(f"{self.origin} sends without end: the stream was closed")
                    # A server that floods gets no more than its share of the loop.
                    await asyncio.sleep(0)
        except EventTooLarge:
            raise AnswerTooLarge from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise OutcomeUnknown(f"the connection to {self.origin} ended before an answer came") from error
        finally:
            response.close()

    async def _document(self, response: aiohttp.ClientResponse) -> Any:
        try:
            body = await read_limited(response, self._max_bytes)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise OutcomeUnknown(f"the connection to {self.origin} ended before the answer was complete") from error
        finally:
            response.close()
        if body is None:
            raise AnswerTooLarge
        return await parse_answer(body, self.text)


async def event_messages(event: ServerEvent, text: Callable[[str], str]) -> list[dict[str, Any]]:
    """Return the messages in an event, whose texts pass `text`; those that only keep a stream open have none.

    Raises:
        OutcomeUnknown: what it holds is no message.
    """
    if event.name != "message" or not event.data:
        return []
    return messages_in(await parse_answer(event.data, text))


async def parse_answer(body: bytes, text: Callable[[str], str]) -> Any:
    """Return what a server has sent, parsed; its texts pass `text`.

    Raises:
        OutcomeUnknown: it is not JSON within bounds.
    """
    try:
        return await parse_json(body, text)
    except ValueError as error:
        raise OutcomeUnknown(f"the server's answer cannot be read: {error}") from error


def _kind_of(error: Exception) -> str:
    """Say what failed, without the addresses that a name has led to."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    if isinstance(error, aiohttp.ClientSSLError):
        return "its certificate or encryption is not accepted"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return "no connection"

"""The one way out over HTTP: every request to an address outside of the installation goes through here.

Addresses come from the operator, who is trusted, or from a group, whose address is checked.
"""

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from services.common.egress import AddressPolicy, CheckedResolver
from services.common.group_lines import wait_without_turn
from services.common.tracing.http_spans import note_status, request_span, traced_headers

_DNS_CACHE_SECONDS = 10
_KEEPALIVE_SECONDS = 60
_READ_BYTES = 64 * 1024
_GZIP_MARK = b"\x1f"


BeforeSend = Callable[[], Awaitable[None]]


class AnswerLost(aiohttp.ClientError):
    """A connection ended after a request was sent on it, or while it was, and before an answer began."""


class Undecodable(aiohttp.ClientPayloadError):
    """A body has come in an encoding that was not asked for, or is not what its encoding says; the text tells which."""


class EgressClient:
    """Pools of connections, one for the operator's addresses and two for those that groups choose.

    Redirects are not followed; neither proxies nor credentials are taken from the environment, and no cookie passes
    from one call to the next.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        connect_timeout: float | None = None,
        total_timeout: float | None = None,
        connections_per_origin: int = 0,
    ) -> None:
        """`policy` says which addresses a group may choose; timeouts are in seconds; 0 connections means no limit."""
        self._policy = policy
        self._timeout = aiohttp.ClientTimeout(total=total_timeout, sock_connect=connect_timeout)
        self._connections_per_origin = connections_per_origin
        self._sessions: dict[tuple[str, bool], aiohttp.ClientSession] = {}

    async def request(
        self,
        method: str,
        url: str,
        *,
        trusted: bool,
        data: bytes | aiohttp.Payload | Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        total_timeout: float | None = None,
        tls: ssl.SSLContext | None = None,
        before_send: BeforeSend | None = None,
        encoded: bool = False,
    ) -> aiohttp.ClientResponse:
        """Send a request and return the response with its body unread.

        `trusted` says that the operator chose the address. `data` is a body, or the fields of a form. `total_timeout`,
        in seconds and instead of the client's own, covers the reading of the body too. `tls` replaces the system's
        authorities. `encoded` sends the address to the letter; otherwise its percent-encoding is normalised, which
        makes a comma of `%2C`.

        `before_send` is for requests that must not be made twice: it is awaited once there is a connection and before
        the first byte leaves, and nothing is sent if it raises. Such a request has a connection of its own, which no
        server is just closing, and is never repeated.

        Raises:
            PermissionDenied: the address is not one that groups may call.
            AnswerLost: it had a `before_send`, and the connection ended before an answer began.
            aiohttp.ClientError, OSError, TimeoutError: nothing answered.
        """
        if not trusted:
            self._policy.check_literal(url)
        timeout = self._timeout
        if total_timeout is not None:
            timeout = aiohttp.ClientTimeout(total=total_timeout, sock_connect=timeout.sock_connect)
        wait_without_turn()
        with request_span(method, url) as request:
            response = await self._session(url, trusted=trusted, once=before_send is not None).request(
                method,
                URL(url, encoded=True) if encoded else url,
                data=data,
                headers=traced_headers(url, headers or {}),
                ssl=tls or True,
                allow_redirects=False,
                timeout=timeout,
                trace_request_ctx=before_send,
            )
            note_status(request, response.status)
            return response

    def _session(self, url: str, *, trusted: bool, once: bool) -> aiohttp.ClientSession:
        scheme = "trusted" if trusted else urlsplit(url).scheme.lower()
        kind = (scheme, once)
        if kind not in self._sessions:
            self._sessions[kind] = aiohttp.ClientSession(
                trace_configs=[_before_send()] if once else None,
                middlewares=[_once] if once else (),
                connector=aiohttp.TCPConnector(
                    resolver=None if trusted else CheckedResolver(self._policy, encrypted=scheme == "https"),
                    ttl_dns_cache=_DNS_CACHE_SECONDS,
                    limit=0,
                    limit_per_host=self._connections_per_origin,
                    keepalive_timeout=None if once else _KEEPALIVE_SECONDS,
                    force_close=once,
                ),
                # `iter_body` unpacks in small steps: a small body may become a huge one.
                auto_decompress=False,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "coxswain", "Accept-Encoding": "gzip"},
            )
        return self._sessions[kind]

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(session.close() for session in self._sessions.values()))
        self._sessions.clear()


def _before_send() -> aiohttp.TraceConfig:
    """Return what calls the `before_send` of a request as soon as it has a connection."""

    async def connected(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _parameters: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        before_send: BeforeSend = context.trace_request_ctx
        await before_send()

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(connected)
    return tracing


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request; aiohttp would repeat those of methods that HTTP calls idempotent when no answer comes."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise AnswerLost(str(error) or type(error).__name__) from error


def iter_body(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Iterate over the body of a response as it comes, unpacked where it is compressed.

    What one packet unpacks to comes in pieces, and other work may run between them.

    Raises:
        Undecodable: its encoding was not requested, or it is damaged.
        aiohttp.ClientError, OSError: the connection was lost.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return response.content.iter_any() if encoding in ("", "identity") else _iter_unpacked(response, encoding)


async def _iter_unpacked(response: aiohttp.ClientResponse, encoding: str) -> AsyncIterator[bytes]:
    if encoding not in ("gzip", "x-gzip"):
        raise Undecodable(f"its body is packed as {encoding[:40]!r}, which was not asked for")
    unpacker = _gzip_unpacker()
    begun = plain = False
    try:
        async for data in response.content.iter_any():
            if plain or not (begun or data.startswith(_GZIP_MARK)):
                # Labels are wrong at times.
                plain = True
                yield data
                continue
            while data:
                if unpacker.eof:
                    # A body may consist of several members, one after the other; what is none is padding.
                    if not data.startswith(_GZIP_MARK):
                        return
                    unpacker = _gzip_unpacker()
                begun = True
                if piece := unpacker.decompress(data, _READ_BYTES):
                    yield piece
                data = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
                if data:
                    await asyncio.sleep(0)
        if rest := unpacker.flush(_READ_BYTES):
            yield rest
    except zlib.error as error:
        raise Undecodable("its body is not what its encoding says") from error
    if begun and not unpacker.eof:
        raise aiohttp.ClientPayloadError("the body ended before its encoding did")


def _gzip_unpacker() -> "zlib._Decompress":
    return zlib.decompressobj(zlib.MAX_WBITS | 16)


async def read_limited(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """Return the body of a response, or None when it is larger; the caller closes the response.

    Raises:
        aiohttp.ClientError, OSError: see `iter_body`.
    """
    parts: list[bytes] = []
    size = 0
    async for part in iter_body(response):
        size += len(part)
        if size > max_bytes:
            return None
        parts.append(part)
    return b"".join(parts)

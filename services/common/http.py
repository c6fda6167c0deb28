"""The one way out over HTTP: every request to an address outside of the installation goes through here.

Addresses come from the operator, who is trusted, or from a group, whose address is checked.
"""

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import aiohttp

from services.common.egress import AddressPolicy, CheckedResolver

_DNS_CACHE_SECONDS = 10
_KEEPALIVE_SECONDS = 60
_READ_BYTES = 64 * 1024


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
        self._sessions: dict[str, aiohttp.ClientSession] = {}

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
    ) -> aiohttp.ClientResponse:
        """Send a request and return the response with its body unread.

        `trusted` says that the operator chose the address. `data` is a body, or the fields of a form. `total_timeout`,
        in seconds and instead of the client's own, covers the reading of the body too. `tls` replaces the system's
        authorities.

        Raises:
            PermissionDenied: the address is not one that groups may call.
            aiohttp.ClientError, OSError, TimeoutError: nothing answered.
        """
        if not trusted:
            self._policy.check_literal(url)
        timeout = self._timeout
        if total_timeout is not None:
            timeout = aiohttp.ClientTimeout(total=total_timeout, sock_connect=timeout.sock_connect)
        return await self._session(url, trusted=trusted).request(
            method,
            url,
            data=data,
            headers=headers,
            ssl=tls or True,
            allow_redirects=False,
            timeout=timeout,
        )

    def _session(self, url: str, *, trusted: bool) -> aiohttp.ClientSession:
        kind = "trusted" if trusted else urlsplit(url).scheme.lower()
        if kind not in self._sessions:
            self._sessions[kind] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=None if trusted else CheckedResolver(self._policy, encrypted=kind == "https"),
                    ttl_dns_cache=_DNS_CACHE_SECONDS,
                    limit=0,
                    limit_per_host=self._connections_per_origin,
                    keepalive_timeout=_KEEPALIVE_SECONDS,
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


def iter_body(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Iterate over the body of a response as it comes, unpacked where it is compressed.

    What one packet unpacks to comes in pieces, and other work may run between them.

    Raises:
        aiohttp.ClientPayloadError: its encoding was not requested, or it is damaged.
        aiohttp.ClientError, OSError: the connection was lost.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return response.content.iter_any() if encoding in ("", "identity") else _iter_unpacked(response, encoding)


async def _iter_unpacked(response: aiohttp.ClientResponse, encoding: str) -> AsyncIterator[bytes]:
    if encoding not in ("gzip", "x-gzip"):
        raise aiohttp.ClientPayloadError(f"the body is packed as {encoding[:40]}")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        async for data in response.content.iter_any():
            while data:
                if piece := unpacker.decompress(data, _READ_BYTES):
                    yield piece
                data = unpacker.unconsumed_tail
                if data:
                    await asyncio.sleep(0)
        if rest := unpacker.flush(_READ_BYTES):
            yield rest
    except zlib.error as error:
        raise aiohttp.ClientPayloadError("the body is not what its encoding says") from error


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

"""The one way out over HTTP: every request to an address outside of the installation goes through here.

Addresses come from the operator, who is trusted, or from a group, whose address is checked.
"""

import asyncio
import ssl
from collections.abc import Mapping
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
        self._connect_timeout = connect_timeout
        self._total_timeout = total_timeout
        self._connections_per_origin = connections_per_origin
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def request(
        self,
        method: str,
        url: str,
        *,
        trusted: bool,
        data: bytes | Mapping[str, str] | None = None,
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
        total = self._total_timeout if total_timeout is None else total_timeout
        return await self._session(url, trusted=trusted).request(
            method,
            url,
            data=data,
            headers=headers,
            ssl=tls or True,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=total, sock_connect=self._connect_timeout),
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
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "coxswain"},
            )
        return self._sessions[kind]

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(session.close() for session in self._sessions.values()))
        self._sessions.clear()


async def read_limited(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """Return the body of a response, or None when it is larger; the caller closes the response."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(_READ_BYTES):
        size += len(part)
        if size > max_bytes:
            return None
        parts.append(part)
    return b"".join(parts)

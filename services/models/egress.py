"""The one door to the outside: every request this service sends to an upstream goes through here.

Addresses come from the operator, who is trusted, or from a group's own model, whose address is checked.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp

from services.common.egress import AddressPolicy, CheckedResolver

_DNS_CACHE_SECONDS = 10
_KEEPALIVE_SECONDS = 60


class Egress:
    """Pools of connections, one for the operator's addresses and two for groups' own."""

    def __init__(self, policy: AddressPolicy, *, connect_timeout: float, connections_per_origin: int) -> None:
        self._policy = policy
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._connections_per_origin = connections_per_origin
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, trusted: bool) -> aiohttp.ClientResponse:
        """Send a JSON document and return the response with its body unread. Redirects are not followed.

        `trusted` says that the operator chose the address.

        Raises:
            PermissionDenied: the address is not one that groups may call.
            aiohttp.ClientError, OSError, TimeoutError: nothing answered.
        """
        if not trusted:
            self._policy.check_literal(url)
        return await self._session(url, trusted=trusted).post(
            url, data=body, headers={"Content-Type": "application/json", **headers}, allow_redirects=False
        )

    def _session(self, url: str, *, trusted: bool) -> aiohttp.ClientSession:
        kind = "trusted" if trusted else urlsplit(url).scheme
        if kind not in self._sessions:
            resolver = None if trusted else CheckedResolver(self._policy, encrypted=kind == "https")
            self._sessions[kind] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=resolver,
                    ttl_dns_cache=_DNS_CACHE_SECONDS,
                    limit=0,
                    limit_per_host=self._connections_per_origin,
                    keepalive_timeout=_KEEPALIVE_SECONDS,
                ),
                # Neither proxies nor credentials from the environment, and no cookie from one call to the next.
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                headers={"User-Agent": "coxswain"},
            )
        return self._sessions[kind]

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(session.close() for session in self._sessions.values()))
        self._sessions.clear()

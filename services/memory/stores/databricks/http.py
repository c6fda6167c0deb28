"""Pools of connections to workspaces: the operator's own are trusted, those that groups name are checked."""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp

from services.common.egress import AddressPolicy, CheckedResolver, origin_of

_DNS_CACHE_SECONDS = 10
_KEEPALIVE_SECONDS = 60


class WorkspaceHttp:
    """Neither redirects nor proxies, cookies and credentials of the environment."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        trusted_origins: frozenset[str],
        connect_seconds: float,
        connections_per_workspace: int,
    ) -> None:
        self._policy = policy
        self._trusted_origins = trusted_origins
        self._connect_seconds = connect_seconds
        self._connections_per_workspace = connections_per_workspace
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def request(
        self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> aiohttp.ClientResponse:
        """Send a JSON document and return the response with its body unread; `timeout` (seconds) covers that too.

        Raises:
            PermissionDenied: the address is not one that groups may call.
            aiohttp.ClientError, OSError, TimeoutError: nothing answered.
        """
        trusted = origin_of(url) in self._trusted_origins
        if not trusted:
            self._policy.check_literal(url)
        if body is not None:
            headers = {"Content-Type": "application/json", **headers}
        return await self._session(url, trusted=trusted).request(
            method,
            url,
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=self._connect_seconds),
        )

    def _session(self, url: str, *, trusted: bool) -> aiohttp.ClientSession:
        kind = "trusted" if trusted else urlsplit(url).scheme
        if kind not in self._sessions:
            self._sessions[kind] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=None if trusted else CheckedResolver(self._policy, encrypted=kind == "https"),
                    ttl_dns_cache=_DNS_CACHE_SECONDS,
                    limit=0,
                    limit_per_host=self._connections_per_workspace,
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

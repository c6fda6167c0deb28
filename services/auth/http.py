"""JSON over HTTP, from addresses that the operator chose or that a group did, which are checked."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from services.common.egress import AddressPolicy, CheckedResolver, origin_of
from services.common.errors import Unavailable

_MAX_BYTES = 1024 * 1024
_RETRY_SECONDS = 2.0
_DNS_CACHE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A status and the JSON that came with it; None when it was no JSON."""

    status: int
    body: Any = field(repr=False)

    @property
    def document(self) -> Mapping[str, Any]:
        """The body when it is a JSON object, else an empty one."""
        return self.body if isinstance(self.body, dict) else {}


class HttpClient:
    """Pools of connections; no redirects, no proxies or cookies, answers of at most 1 MiB."""

    def __init__(self, policy: AddressPolicy, *, timeout_seconds: float) -> None:
        """`policy` tells which addresses a group may choose."""
        self._policy = policy
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._tls: dict[Path, ssl.SSLContext] = {}

    async def get(self, url: str, *, trusted: bool = True, bearer: str = "", ca_file: Path | None = None) -> HttpAnswer:
        """Return the answer to a GET. `trusted` says that the operator chose the address.

        Raises:
            PermissionDenied: DESTINATION_NOT_ALLOWED, a group chose an address it may not.
            Unavailable: nothing answered in time, or with more than can be taken.
        """
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return await self._ask("GET", url, trusted=trusted, ca_file=ca_file, headers=headers)

    async def post_form(
        self, url: str, form: Mapping[str, str], *, user: str, password: str, trusted: bool = True
    ) -> HttpAnswer:
        """Return the answer to a form that is posted with HTTP Basic authentication.

        Raises:
            PermissionDenied, Unavailable: as `get`.
        """
        headers = {"Authorization": aiohttp.encode_basic_auth(user, password)}
        return await self._ask("POST", url, trusted=trusted, headers=headers, data=dict(form))

    async def _ask(
        self, method: str, url: str, *, trusted: bool, ca_file: Path | None = None, **options: Any
    ) -> HttpAnswer:
        if not trusted:
            self._policy.check_literal(url)
        session = self._session(url, trusted=trusted)
        tls = await self._tls_of(ca_file) if ca_file else True
        try:
            async with session.request(method, url, ssl=tls, allow_redirects=False, **options) as response:
                data = await response.content.read(_MAX_BYTES + 1)
                while len(data) <= _MAX_BYTES and not response.content.at_eof():
                    data += await response.content.read(_MAX_BYTES + 1 - len(data))
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise unavailable(url, f"did not answer ({type(error).__name__})") from None
        if len(data) > _MAX_BYTES:
            raise unavailable(url, "answered with more than 1 MiB")
        try:
            return HttpAnswer(status, json.loads(data))
        except ValueError:
            return HttpAnswer(status, None)

    async def _tls_of(self, ca_file: Path) -> ssl.SSLContext:
        if ca_file not in self._tls:
            try:
                self._tls[ca_file] = await asyncio.to_thread(ssl.create_default_context, cafile=str(ca_file))
            except (OSError, ssl.SSLError) as error:
                raise unavailable(str(ca_file), f"cannot be read ({type(error).__name__})") from None
        return self._tls[ca_file]

    def _session(self, url: str, *, trusted: bool) -> aiohttp.ClientSession:
        kind = "trusted" if trusted else urlsplit(url).scheme
        if kind not in self._sessions:
            resolver = None if trusted else CheckedResolver(self._policy, encrypted=kind == "https")
            self._sessions[kind] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver, ttl_dns_cache=_DNS_CACHE_SECONDS),
                timeout=self._timeout,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._sessions[kind]

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()


def unavailable(url: str, why: str) -> Unavailable:
    """Return the failure of an address that should answer and does not; names its origin only."""
    place = origin_of(url) or url
    return Unavailable(f"{place} {why}; try again", metadata={"dependency": place}, retry_after=_RETRY_SECONDS)

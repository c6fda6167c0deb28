"""The one door to the outside: every request this service sends to an upstream goes through here.

Addresses come from the operator, who is trusted, or from a group's own model, which a tenant made. A tenant's address
is resolved here, every address it resolves to is checked, and the connection goes to a checked one: no name can lead
into the networks the service runs in.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from services.common.errors import PermissionDenied
from services.models.settings import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_DNS_CACHE_SECONDS = 10
_KEEPALIVE_SECONDS = 60


def origin_of(url: str) -> str:
    """Return scheme, host and port (when it is not the scheme's own) of an address."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, usual) else "")


class AddressPolicy:
    """Which addresses groups' own models may be reached at."""

    def __init__(self, allowed_networks: Sequence[Network] = ()) -> None:
        """`allowed_networks` are those besides the public internet."""
        self._allowed = tuple(allowed_networks)

    def permits(self, address: Address, *, encrypted: bool) -> bool:
        """Tell whether an address may be connected to; one on the public internet only with encryption."""
        address = _inner(address)
        if any(address.version == network.version and address in network for network in self._allowed):
            return True
        return encrypted and address.is_global and not address.is_multicast and not address.is_reserved

    def check_literal(self, url: str) -> None:
        """Refuse an address that is written out as a number.

        Raises:
            PermissionDenied: it is not one to connect to.
        """
        parts = urlsplit(url)
        try:
            address = ipaddress.ip_address((parts.hostname or "").split("%")[0])
        except ValueError:
            return
        if not self.permits(address, encrypted=parts.scheme == "https"):
            raise refused(origin_of(url))


def refused(origin: str) -> PermissionDenied:
    """Return the failure of an address that is not permitted. It does not tell what the name resolves to."""
    return PermissionDenied(
        f"{origin} may not be called from here: a group's own models are reached at public addresses over https; "
        "ask the operator to allow other networks (COXSWAIN_MODELS_EGRESS_ALLOWED_NETWORKS)",
        reason="DESTINATION_NOT_ALLOWED",
        metadata={"origin": origin},
    )


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address.teredo is not None:
            return address.teredo[1]
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class _CheckedResolver(AbstractResolver):
    """Resolves names and refuses those that lead, with any of their addresses, where groups may not go."""

    def __init__(self, policy: AddressPolicy, *, encrypted: bool) -> None:
        self._policy = policy
        self._encrypted = encrypted
        self._names = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`."""
        found = await self._names.resolve(host, port, family)
        for result in found:
            address = ipaddress.ip_address(result["host"].split("%")[0])
            if not self._policy.permits(address, encrypted=self._encrypted):
                scheme = "https" if self._encrypted else "http"
                raise refused(origin_of(f"{scheme}://{host}:{port}"))
        return found

    async def close(self) -> None:
        """Close the resolver behind it."""
        await self._names.close()


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
            resolver = None if trusted else _CheckedResolver(self._policy, encrypted=kind == "https")
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

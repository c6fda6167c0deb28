"""Which addresses may be connected to on behalf of a tenant.

A tenant's address is resolved here, every address it resolves to is checked, and the connection goes to a checked one:
no name can lead into the networks the services run in.
"""

import asyncio
import functools
import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

from services.common.errors import PermissionDenied

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# What the standard library takes for public, by its version or always: IANA's registries of special-purpose addresses,
# and addresses at which clouds serve the secrets of their machines.
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's own services on each machine
            "192.0.0.0/24",  # protocol assignments; Oracle Cloud serves metadata there
            "192.88.99.0/24",  # relays of 6to4
            "2001::/23",  # protocol assignments, Teredo among them
            "3fff::/20",  # documentation
            "5f00::/16",  # segment identifiers
        ),
    )
)
_HTTP_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
_CREDENTIAL_PORTS: Mapping[str, int] = {**_HTTP_PORTS, "postgresql": 5432}
_PRIVATE_ENDINGS = frozenset({"localhost", "local", "internal", "lan", "home", "corp", "intranet"})
# Linux has the second one, for names without an address.
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_UNKNOWN_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
# Servers of names that groups choose may be slow: the threads that everything else needs do not wait for them.
_LOOKUPS = ThreadPoolExecutor(32, thread_name_prefix="lookup")
_LOOKUP_SECONDS = 10.0
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOST = re.compile(r"^(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])$")


def origin_of(url: str) -> str | None:
    """Return scheme, host and port of `url` in one spelling (lower case, no default port), or None when it has none.

    An address without a scheme is taken as HTTPS. One with a user name is refused: it reads as another host.
    """
    return _origin_of(url, _HTTP_PORTS)


def credential_origin_of(url: str) -> str | None:
    """Return the origin that a credential may belong to: as `origin_of`, or that of a database, `postgresql://HOST`."""
    return _origin_of(url, _CREDENTIAL_PORTS)


def _origin_of(url: str, default_ports: Mapping[str, int]) -> str | None:
    text = url.strip()
    if "://" not in text:
        text = f"https://{text}"
    # Browsers and some clients read a backslash as a slash: what follows would be another host.
    if "\\" in text or any(character.isspace() for character in text):
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower().rstrip(".")
    if ":" in host:
        host = f"[{host}]"
    if scheme not in default_ports or "@" in parts.netloc or not _HOST.match(host) or port == 0:
        return None
    return f"{scheme}://{host}" if port in (None, default_ports[scheme]) else f"{scheme}://{host}:{port}"


@functools.lru_cache(maxsize=1000)
def required_origin(url: str) -> str:
    """Return the origin of an address that has to have one.

    Raises:
        PermissionDenied: it has none, or can be read as another one.
    """
    origin = origin_of(url)
    if origin is None:
        # The address is not shown: where it should hold a host it may hold a password.
        raise PermissionDenied(
            "the address is not one that can be called: write it as https://HOST or https://HOST:PORT and a path, "
            "without a user name",
            reason="DESTINATION_NOT_ALLOWED",
        )
    return origin


def is_public_https(url: str) -> bool:
    """Return whether an address is one that others may be asked to fetch: https, at what looks like a public host.

    What its name resolves to is for those to check who fetch it.
    """
    origin = origin_of(url)
    if origin is None or not url.strip().lower().startswith("https://"):
        return False
    host = (urlsplit(url.strip()).hostname or "").lower().rstrip(".")
    try:
        address = _inner(ipaddress.ip_address(host.split("%")[0]))
    except ValueError:
        return "." in host and host.rpartition(".")[2] not in _PRIVATE_ENDINGS and not _ends_in_number(host)
    return _is_public(address)


def _ends_in_number(host: str) -> bool:
    """Return whether some resolvers read a name as an IPv4 address: `127.1`, `0x7f000001`."""
    return _NUMBER.fullmatch(host.lower().rstrip(".").rpartition(".")[2]) is not None


class AddressPolicy:
    """Which addresses a tenant's address may lead to."""

    def __init__(self, allowed_networks: Sequence[Network] = (), *, setting: str) -> None:
        """`allowed_networks` are those besides the public internet; `setting` is the variable that names them."""
        self._allowed = tuple(allowed_networks)
        self.setting = setting

    @property
    def permits_plain(self) -> bool:
        """Whether there is any address that may be connected to without encryption."""
        return bool(self._allowed)

    def permits(self, address: Address, *, encrypted: bool) -> bool:
        """Return whether an address may be connected to; one on the public internet only with encryption."""
        address = _inner(address)
        if any(address.version == network.version and address in network for network in self._allowed):
            return True
        return encrypted and _is_public(address)

    def check_literal(self, url: str) -> None:
        """Refuse an address that can be read as two, or is written out as a number that may not be connected to.

        Raises:
            PermissionDenied: it is not one to connect to.
        """
        origin = required_origin(url)
        parts = urlsplit(url)
        host = (parts.hostname or "").split("%")[0]
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if _ends_in_number(host):
                raise self.refused(origin) from None
            return
        if not self.permits(address, encrypted=parts.scheme == "https"):
            raise self.refused(origin)

    def refused(self, origin: str) -> PermissionDenied:
        """Return the failure of an address that is not permitted.

        It does not tell what the name resolves to, nor whether it does: names inside are nobody's business.
        """
        return PermissionDenied(
            f"{origin} may not be called from here: what a group chooses is reached at public addresses over https. "
            f"Check that there is such a name, or ask the operator to allow other networks ({self.setting})",
            reason="DESTINATION_NOT_ALLOWED",
            metadata={"origin": origin},
        )


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return False
    if any(address.version == network.version and address in network for network in _SPECIAL):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_unknown_name(error: OSError) -> bool:
    """Return whether a look-up failed because there is no such name; such names are refused as those inside are."""
    return isinstance(error, socket.gaierror) and error.errno in _UNKNOWN_NAME


async def look_up(host: str, port: int, family: int = socket.AF_UNSPEC) -> list[tuple[int, str]]:
    """Return the addresses of a name, each with its family, within ten seconds.

    Raises:
        OSError: there is no such name, or nothing answers in time.
    """
    find = functools.partial(
        socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, socket.IPPROTO_TCP, socket.AI_ADDRCONFIG
    )
    async with asyncio.timeout(_LOOKUP_SECONDS):
        found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, find)
    return [(int(kind), str(address[0])) for kind, _, _, _, address in found]


class CheckedResolver(AbstractResolver):
    """Resolves names and refuses those that lead, with any of their addresses, where groups may not go."""

    def __init__(self, policy: AddressPolicy, *, encrypted: bool) -> None:
        self._policy = policy
        self._encrypted = encrypted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`.

        Raises:
            PermissionDenied: there is no such name, or it leads where groups may not go.
            OSError: the name cannot be looked up now.
        """
        try:
            found = await look_up(host, port, family)
        except OSError as error:
            if is_unknown_name(error):
                raise self._refused(host, port) from None
            raise
        for _, address in found:
            if not self._policy.permits(ipaddress.ip_address(address.split("%")[0]), encrypted=self._encrypted):
                raise self._refused(host, port)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=socket.IPPROTO_TCP, flags=_NUMERIC)
            for kind, address in found
        ]

    def _refused(self, host: str, port: int) -> PermissionDenied:
        scheme = "https" if self._encrypted else "http"
        return self._policy.refused(required_origin(f"{scheme}://{host}:{port}"))

    async def close(self) -> None:
        """See the base class: it holds nothing."""

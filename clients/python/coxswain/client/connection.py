"""Addresses, identity and encryption of a client, and the metadata of its calls."""

import ipaddress
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import grpc

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT = 30.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
SERVICES = ("auth", "memory", "models", "orchestrator")

# Targets of gRPC have commas of their own: ipv4:10.0.0.1:50051,10.0.0.2:50051
_NAMED = re.compile(r"(?:^|,)\s*([a-z]+)=")
# Targets of gRPC that name hosts, and those that name something else, or several hosts.
_SCHEMES_OF_HOSTS = frozenset({"dns", "http", "https"})
_OTHER_SCHEMES = frozenset({"unix", "unix-abstract", "vsock", "ipv4", "ipv6", "xds", "google-c2p", "passthrough"})
_EXAMPLE_PORT = DEFAULT_ADDRESS.rpartition(":")[2]
_MAX_PORT = 65535

Metadata = tuple[tuple[str, str | bytes], ...]
RequestT = TypeVar("RequestT")


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of a connection. Everything unset means the system's authorities and no client key."""

    root_certificates: bytes | None = None
    """PEM of the authorities to trust."""
    private_key: bytes | None = field(default=None, repr=False)
    """PEM of the client's key, for mutual TLS."""
    certificate_chain: bytes | None = None
    """PEM of the client's certificate."""
    server_name: str = ""
    """The name the server's certificate is checked against, when it is not the address's."""

    def credentials(self) -> "grpc.ChannelCredentials":
        # Settings alone, as the help of a command has them, need no gRPC.
        import grpc

        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


@dataclass(frozen=True, slots=True)
class Connection:
    """The settings of a client. Without an address, the environment has what is not given: address, token and group."""

    address: str | Mapping[str, str] = ""
    """``host:port``, ``https://host:port`` (means TLS), ``unix:path`` or any gRPC target. With ``dns:///host:port``
    calls go in turn to all hosts of that name that say they serve. Empty: COXSWAIN_ADDRESS, else 127.0.0.1:50051.

    Services at addresses of their own: ``auth=host:port,memory=host:port,models=host:port,orchestrator=host:port``, or
    a mapping of the same."""
    token: str | Callable[[], str] | None = field(default=None, repr=False)
    """The bearer token, or a function that returns a fresh one for each call. None, and no address: COXSWAIN_TOKEN."""
    group: str = ""
    """Id of the group to act in; members of one group may leave it empty. Empty, and no address: COXSWAIN_GROUP."""
    tls: Tls | bool = False
    """Whether to encrypt: True for the system's authorities, Tls for others."""
    timeout: float = DEFAULT_TIMEOUT
    """Default deadline of a unary call in seconds; calls of models have at least 600."""

    def __post_init__(self) -> None:
        # A token that is not given belongs to the installation of the environment, and is sent to no other address.
        if not self.address:
            object.__setattr__(self, "token", self.token or os.environ.get("COXSWAIN_TOKEN") or None)
            object.__setattr__(self, "group", self.group or os.environ.get("COXSWAIN_GROUP", ""))

    @property
    def _address(self) -> str | Mapping[str, str]:
        return self.address or os.environ.get("COXSWAIN_ADDRESS") or DEFAULT_ADDRESS

    def of_services(self) -> dict[str, "Connection"]:
        """The connection to each service, by its name: this one for all, unless the address names several.

        Raises ValueError for a list of addresses that leaves one out, or names a service that is not there.
        """
        address = self._address
        named = dict(address) if isinstance(address, Mapping) else _named_addresses(address)
        if not named:
            return dict.fromkeys(SERVICES, self)
        if unknown := sorted(set(named) - set(SERVICES)):
            raise ValueError(f"address: no service is called {unknown[0]!r}; there are {', '.join(SERVICES)}")
        if missing := [service for service in SERVICES if not named.get(service)]:
            given = f"{missing[0]}=host:port"
            raise ValueError(
                f"address: none for {', '.join(missing)}; add {given}, or give one address for all services"
            )
        return {service: replace(self, address=named[service]) for service in SERVICES}

    @property
    def target(self) -> str:
        """The gRPC target; several addresses as they are written.

        Raises ValueError for an address with a path, a user, no host or no valid port.
        """
        address = self._address
        if isinstance(address, Mapping):
            return ",".join(f"{service}={each}" for service, each in address.items())
        if not address.startswith(("http://", "https://")):
            if not _named_addresses(address):
                _check_port(address)
            return address
        parts = urlsplit(address)
        more = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if more or not parts.hostname:
            raise ValueError(
                f"address {address!r}: expected scheme, host and port only, such as https://example.com:443"
            )
        if ":" in parts.netloc.rpartition("]")[2]:
            _check_port(address)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"

    @property
    def credentials(self) -> "grpc.ChannelCredentials | None":
        """TLS credentials of a connection with one address; None means no encryption."""
        if isinstance(self.tls, Tls):
            return self.tls.credentials()
        address = self._address
        encrypted = self.tls or (isinstance(address, str) and address.startswith("https://"))
        return Tls().credentials() if encrypted else None

    @property
    def options(self) -> list[tuple[str, Any]]:
        """Channel options of a connection with one address: message sizes, retries, liveness."""
        from coxswain.client import policy

        return [*self.transport_options, ("grpc.service_config", policy.service_config())]

    @property
    def transport_options(self) -> list[tuple[str, Any]]:
        """Those of ``options`` that need no list of all methods: nothing is repeated."""
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # A request that outgrows the buffer would silently not be repeated.
            ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
            # A watch may be quiet for long: ask whether the other end still lives.
            ("grpc.keepalive_time_ms", 15_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            # While calls are sent, gRPC asks by pings of its own, and by itself waits a minute for their answers.
            ("grpc.http2.ping_timeout_ms", 10_000),
            # After a restart of the server try again soon, not after gRPC's two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ]
        if is_local(self.target):
            options.append(("grpc.enable_http_proxy", 0))
        if isinstance(self.tls, Tls) and self.tls.server_name:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options

    def metadata(self, given: Sequence[tuple[str, str | bytes]] | None) -> Metadata:
        """The metadata of a call; what its caller gave takes precedence."""
        entries = list(given or ())
        names = {name.lower() for name, _ in entries}
        token = self.token() if callable(self.token) else self.token
        if token and "authorization" not in names:
            entries.append(("authorization", token if " " in token else f"Bearer {token}"))
        if self.group and "x-group-id" not in names:
            entries.append(("x-group-id", self.group))
        if "x-request-id" not in names:
            entries.append(("x-request-id", uuid.uuid4().hex))
        return tuple(entries)


def _check_port(address: str) -> None:
    """Raise ValueError unless a host is followed by a port: gRPC takes a port that is missing for 443."""
    scheme, colon, rest = address.partition(":")
    if colon and scheme in _OTHER_SCHEMES:
        return
    if colon and scheme in _SCHEMES_OF_HOSTS:
        host_and_port = rest.strip("/").rpartition("/")[2]
    else:
        host_and_port = address
    host, colon, port = host_and_port.rpartition(":")
    bare = not colon or "]" in port or (":" in host and not host.endswith("]"))
    if bare or not port:
        host = host_and_port.removesuffix(":")
        host = f"[{host}]" if ":" in host and not host.endswith("]") else host
        raise ValueError(f"address {address!r}: give a port, as in {host or 'localhost'}:{_EXAMPLE_PORT}")
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= _MAX_PORT):
        raise ValueError(f"address {address!r}: {port!r} is not a port; give a number from 1 to {_MAX_PORT}")


def _named_addresses(address: str) -> dict[str, str]:
    """The addresses of ``auth=...,memory=...`` by name; empty for a single address."""
    _, *parts = _NAMED.split(address)
    return {name: each.strip() for name, each in zip(parts[::2], parts[1::2], strict=True)}


def is_local(target: str) -> bool:
    """Return whether a gRPC target is on this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = target.rsplit("/", 1)[-1].removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_request_id(request: RequestT) -> RequestT:
    """The request with a ``request_id``: as given, or a new one where the message has the field and it is empty.

    It makes every repetition of the call, by gRPC or by the caller's code around it, the same request to the server.
    """
    from google.protobuf.message import Message

    from coxswain.client import policy

    if not isinstance(request, Message) or policy.REQUEST_ID not in request.DESCRIPTOR.fields_by_name:
        return request
    if getattr(request, policy.REQUEST_ID):
        return request
    filled = type(request)()
    filled.CopyFrom(request)
    setattr(filled, policy.REQUEST_ID, str(uuid.uuid4()))
    return filled

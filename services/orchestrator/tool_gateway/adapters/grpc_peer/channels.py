"""Connections to peers: to checked addresses only, shared by the calls of one group with one credential."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import grpc

from services.common.background import BackgroundTasks
from services.common.egress import AddressPolicy, CheckedResolver

_HEALTH_SECONDS = 2.0
_HEALTH_METHOD = "/grpc.health.v1.Health/Check"
# Servers of other languages close connections that are pinged more than once in five minutes. Lost packets are noticed
# sooner: the kernel gives up what nobody acknowledges within the second value.
_KEEPALIVE_MS, _KEEPALIVE_ANSWER_MS = 310_000, 20_000
_MAX_SENT_BYTES = 8 * 1024 * 1024


class PeerUnreachable(Exception):
    """No connection, so nothing was sent. The text says why, for people."""


@dataclass(frozen=True, slots=True)
class ChannelKey:
    """What a connection is for; no two groups and no two credentials ever share one."""

    group_id: str
    source: str
    address: str
    """host:port."""
    plaintext: bool
    credential: bytes = field(repr=False, default=b"")
    """Digest of what calls are authenticated with."""

    @property
    def url(self) -> str:
        """The address as an origin."""
        return f"{'http' if self.plaintext else 'https'}://{self.address}"


@dataclass(slots=True, eq=False)
class _Opened:
    channel: grpc.aio.Channel
    calls: int = 0
    replaced: bool = False


@dataclass(slots=True, eq=False)
class _Connection:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    opened: _Opened | None = None
    users: int = 0
    """Calls that have or wait for a channel."""
    idle: asyncio.TimerHandle | None = None


class PeerChannels:
    """Opens connections when they are needed, and closes those that nobody has used for a while."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        max_message_bytes: int,
        authorities: bytes | None = None,
        connect_seconds: float = 10.0,
        idle_seconds: float = 60.0,
        most_per_group: int = 64,
        most: int = 1024,
    ) -> None:
        """`authorities` is the PEM of those that certificates are checked against; None means those of gRPC."""
        self._policy = policy
        self._authorities = authorities
        self._max_message_bytes = max_message_bytes
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._most_per_group = most_per_group
        self._most = most
        self._connections: OrderedDict[ChannelKey, _Connection] = OrderedDict()
        self._closing = BackgroundTasks()

    @contextlib.asynccontextmanager
    async def connected(self, key: ChannelKey) -> AsyncIterator[grpc.aio.Channel]:
        """Lend a channel that has a connection.

        Raises:
            PermissionDenied: the address is not one that groups may call.
            PeerUnreachable: it cannot be reached, or there are too many connections.
        """
        connection = self._connection(key)
        connection.users += 1
        try:
            async with connection.lock:
                opened = connection.opened
                if opened is None or opened.channel.get_state() is not grpc.ChannelConnectivity.READY:
                    opened = await self._reconnect(key, connection)
                opened.calls += 1
            try:
                yield opened.channel
            finally:
                opened.calls -= 1
                if opened.replaced and not opened.calls:
                    self._closing.start(opened.channel.close())
        finally:
            connection.users -= 1
            self._rest(key, connection)

    async def close(self) -> None:
        """Close every connection."""
        connections = list(self._connections.values())
        self._connections.clear()
        for connection in connections:
            if connection.idle is not None:
                connection.idle.cancel()
        await self._closing.stop()
        await asyncio.gather(*(one.opened.channel.close() for one in connections if one.opened is not None))

    def __len__(self) -> int:
        """Return how many connections there are."""
        return len(self._connections)

    def _connection(self, key: ChannelKey) -> _Connection:
        connection = self._connections.get(key)
        if connection is None:
            self._make_room(key.group_id)
            connection = self._connections[key] = _Connection()
        self._connections.move_to_end(key)
        if connection.idle is not None:
            connection.idle.cancel()
            connection.idle = None
        return connection

    def _make_room(self, group_id: str) -> None:
        own = [key for key in self._connections if key.group_id == group_id]
        full = own if len(own) >= self._most_per_group else list(self._connections)
        if len(full) < (self._most_per_group if full is own else self._most):
            return
        oldest = next((key for key in full if not self._connections[key].users), None)
        if oldest is None:
            raise PeerUnreachable("the group has too many connections to sources of tools; try again later")
        self._drop(oldest)

    def _rest(self, key: ChannelKey, connection: _Connection) -> None:
        if connection.users or self._connections.get(key) is not connection:
            return
        if connection.opened is None:
            self._drop(key)
        else:
            connection.idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._drop, key)

    def _drop(self, key: ChannelKey) -> None:
        connection = self._connections.pop(key)
        if connection.idle is not None:
            connection.idle.cancel()
        if connection.opened is not None:
            self._closing.start(connection.opened.channel.close())

    async def _reconnect(self, key: ChannelKey, connection: _Connection) -> _Opened:
        """Resolve the name again and connect; calls that still run on the old channel end as they would have."""
        old, connection.opened = connection.opened, None
        if old is not None:
            old.replaced = True
            if not old.calls:
                self._closing.start(old.channel.close())
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection.opened = _Opened(await self._connect(key))
        except TimeoutError:
            raise PeerUnreachable(f"{key.address} did not answer within {self._connect_seconds:g} s") from None
        return connection.opened

    async def _connect(self, key: ChannelKey) -> grpc.aio.Channel:
        self._policy.check_literal(key.url)
        host, port = _host_and_port(key)
        resolver = CheckedResolver(self._policy, encrypted=not key.plaintext)
        try:
            found = await resolver.resolve(host, port)
        except OSError:
            raise PeerUnreachable(f"the name {host} cannot be resolved") from None
        finally:
            await resolver.close()
        why = ""
        for target in _targets(found):
            channel = self._open(key, host, target)
            ready = False
            try:
                ready = await _is_ready(channel)
                if ready:
                    return channel
                why = await _reason(channel, key)
            finally:
                if not ready:
                    await channel.close()
        raise PeerUnreachable(why or f"the name {host} has no address")

    def _open(self, key: ChannelKey, host: str, target: str) -> grpc.aio.Channel:
        options: list[tuple[str, Any]] = [
            # The name that was asked for, though the connection goes to an address that was checked.
            ("grpc.default_authority", key.address.removesuffix(":443")),
            ("grpc.enable_http_proxy", 0),
            ("grpc.service_config_disable_resolution", 1),
            # gRPC repeats nothing by itself, not even what it believes not to have been seen.
            ("grpc.enable_retries", 0),
            # Without it, channels of two groups to one address share a connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", _MAX_SENT_BYTES),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_ANSWER_MS),
            ("grpc.primary_user_agent", "coxswain"),
        ]
        if key.plaintext:
            return grpc.aio.insecure_channel(target, options=options)
        options.append(("grpc.ssl_target_name_override", host))
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(self._authorities), options=options)


def _host_and_port(key: ChannelKey) -> tuple[str, int]:
    parts = urlsplit(key.url)
    if parts.path or parts.query or parts.fragment or parts.hostname is None or parts.port is None:
        raise PeerUnreachable("the address of a server is written HOST:PORT, with nothing before or after it")
    return parts.hostname, parts.port


def _targets(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return gRPC targets of addresses, one for each version of IP, in the order of the resolver."""
    targets: dict[str, list[str]] = {}
    for result in found:
        address, port = result["host"], result["port"]
        kind, written = ("ipv6", f"[{address}]:{port}") if ":" in address else ("ipv4", f"{address}:{port}")
        targets.setdefault(kind, []).append(written)
    return [f"{kind}:{','.join(dict.fromkeys(addresses))}" for kind, addresses in targets.items()]


async def _is_ready(channel: grpc.aio.Channel) -> bool:
    """Connect, and return whether that worked at the first attempt."""
    while True:
        state = channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            return True
        if state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}:
            return False
        await channel.wait_for_state_change(state)


async def _reason(channel: grpc.aio.Channel, key: ChannelKey) -> str:
    """Return why a channel has no connection, which only the error of a call says; this one has no effect anywhere."""
    try:
        ask: Any = channel.unary_unary(_HEALTH_METHOD)
        await ask(b"", timeout=_HEALTH_SECONDS)
        details = ""
    except grpc.aio.AioRpcError as error:
        details = (error.details() or "").lower()
    # The text of gRPC names the addresses behind a name, which callers must not learn.
    if "wrong_version_number" in details:
        return f"{key.address} does not speak TLS"
    if "certificate" in details or "hostname" in details:
        return f"the certificate of {key.address} is not valid for that name, or its authority is not known"
    if "refused" in details:
        return f"{key.address} refuses connections"
    return f"{key.address} cannot be reached, or does not speak gRPC"

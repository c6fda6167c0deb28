"""One source as one principal calls it: its address, its connection, and what calls are authenticated with."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from services.common.identity.principal import Principal
from services.common.tracing.http_spans import traced_headers
from services.orchestrator.domain.tool_source import AuthKind, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.foreign import shown
from services.orchestrator.tool_gateway.adapters.grpc_peer.channels import ChannelKey, PeerChannels
from services.orchestrator.tool_gateway.http_bodies import forms_of, secrets_of, without
from services.orchestrator.tool_gateway.ports import CallRefused, RequestCredentials

MAX_ERROR_BYTES = 1024
_MOST_HIDDEN = 32
_SET_BY_GRPC = frozenset({"te", "host", "content-type", "user-agent"})

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection for one RPC, with what it is authenticated with."""

    channel: grpc.aio.Channel
    service: str
    """Full name of the service whose methods are called."""
    metadata: Metadata = field(repr=False)

    def stream(self, method: str, request: Message, *, timeout: float) -> Any:
        """Begin an RPC that streams; its messages come as bytes."""
        opened: Any = self.channel.unary_stream(
            f"/{self.service}/{method}", request_serializer=type(request).SerializeToString, response_deserializer=None
        )
        return opened(request, metadata=self.metadata, timeout=timeout)

    async def ask(self, method: str, request: Message, *, timeout: float) -> bytes:
        """Return the bytes of an answer. Raises grpc.aio.AioRpcError."""
        opened: Any = self.channel.unary_unary(
            f"/{self.service}/{method}", request_serializer=type(request).SerializeToString, response_deserializer=None
        )
        answer: bytes = await opened(request, metadata=self.metadata, timeout=timeout)
        return answer


class PeerClient:
    """Connects to a source. A credential is asked for anew with each RPC: calls may outlast it."""

    def __init__(
        self,
        channels: PeerChannels,
        credentials: RequestCredentials,
        source: ToolSourceSpec,
        principal: Principal,
        service: str,
        address: str,
        *,
        plaintext: bool,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """`service` is the full name of the gRPC service; `metadata` is sent with every call of it."""
        self.name = source.name
        self._channels = channels
        self._credentials = credentials
        self._source = source
        self._principal = principal
        self._service = service
        self._plaintext = plaintext
        self._address = _with_port(address, plaintext=plaintext)
        self._metadata = metadata or {}
        self._secret: Mapping[str, str] = {}
        self._hidden: tuple[str, ...] = ()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Connected]:
        """Lend a connection.

        Raises:
            CallRefused, NotSent: there is no credential, or none now; see `RequestCredentials`.
            PermissionDenied: the address is not one that groups may call.
            PeerUnreachable: it cannot be reached.
        """
        secret = await self._headers()
        headers = traced_headers(f"https://{self._address}/", {**self._source.headers, **self._metadata, **secret})
        metadata = _metadata(self._source, headers)
        digest = hashlib.sha256(repr(sorted(secret.items())).encode()).digest() if secret else b""
        key = ChannelKey(self._principal.group_id, self._source.name, self._address, self._plaintext, digest)
        async with self._channels.connected(key) as channel:
            yield Connected(channel, self._service, metadata)

    async def renews_credential(self) -> bool:
        """Return whether there is another credential than the one that was refused."""
        refused = self._secret
        self._credentials.forget(self._source, self._principal)
        return await self._headers() != refused

    def hide(self, text: str) -> str:
        """Return a text without what calls are authenticated with: servers repeat what they got."""
        return without(text, self._hidden)

    def text_of(self, error: grpc.aio.AioRpcError) -> str:
        """Return what a provider said in a status."""
        return shown(self.hide(error.details() or ""), MAX_ERROR_BYTES)

    async def _headers(self) -> Mapping[str, str]:
        if self._plaintext:
            if self._source.auth.kind is not AuthKind.NONE:
                raise CallRefused(
                    f"{self.name} has `auth` and `plaintext`: a credential is sent over TLS only; remove one of them",
                    reason="DESTINATION_NOT_ALLOWED",
                )
            return {}
        self._secret = await self._credentials.headers(self._source, self._principal, f"https://{self._address}/")
        # One that has been renewed since may still be repeated.
        self._hidden = (*forms_of(secrets_of(self._secret.values())), *self._hidden)[:_MOST_HIDDEN]
        return self._secret


def _with_port(address: str, *, plaintext: bool) -> str:
    """Return host and port; without a port it is that of the web."""
    if address.rpartition("]")[2].count(":") == 1 and address.rpartition(":")[2]:
        return address
    return f"{address.rstrip(':')}:{80 if plaintext else 443}"


def _metadata(source: ToolSourceSpec, headers: Mapping[str, str]) -> Metadata:
    """Return headers as gRPC sends them.

    Raises:
        CallRefused: one has a name or a value that gRPC cannot send.
    """
    entries = []
    for name, value in headers.items():
        key = name.lower()
        if not key.replace("-", "").replace("_", "").replace(".", "").isalnum() or not key.isascii():
            raise CallRefused(f"{source.name}: a header has a name that gRPC cannot send", reason="TOOL_UNAVAILABLE")
        if key.startswith("grpc-") or key.endswith("-bin") or key in _SET_BY_GRPC:
            raise CallRefused(f"{source.name}: gRPC itself sets the header {key}", reason="TOOL_UNAVAILABLE")
        if not all(" " <= character <= "~" for character in value):
            raise CallRefused(
                f"{source.name}: the value of {key} holds other characters than visible ASCII",
                reason="TOOL_UNAVAILABLE",
            )
        entries.append((key, value))
    return tuple(entries)

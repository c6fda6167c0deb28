"""The adapter of gRPC providers."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import datetime

import grpc
from google.protobuf.message import DecodeError

from coxswain.tools.v1 import tool_provider_pb2 as pb
from services.common.cache import AsyncCache
from services.common.egress import AddressPolicy
from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied, ResourceExhausted, Unavailable
from services.common.grpc.large_messages import beside_if_large
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import AuthKind, GrpcProvider, ListedTool, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.foreign import ForeignTextError
from services.orchestrator.tool_gateway.adapters.grpc_peer.cancelling import CallCancelling
from services.orchestrator.tool_gateway.adapters.grpc_peer.channels import (
    PeerChannels,
)
from services.orchestrator.tool_gateway.adapters.grpc_peer.client import PeerClient
from services.orchestrator.tool_gateway.adapters.grpc_peer.listing import LIST_SECONDS, listing
from services.orchestrator.tool_gateway.adapters.grpc_provider.call import ProviderCall
from services.orchestrator.tool_gateway.adapters.grpc_provider.messages import call_message, listed_tool
from services.orchestrator.tool_gateway.pins import has_changed, refuse_changed
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    NotSent,
    RequestCredentials,
    ToolCallRequest,
    ToolResult,
)
from services.orchestrator.tool_gateway.rereads import Rereads
from services.orchestrator.tool_identity import digest_of

MAX_TOOLS = 512
_SERVICE = "coxswain.tools.v1.ToolProvider"
_KEPT_LISTS = 64
_KEPT_SECONDS = 60.0
"""For which calls go by a list."""
_MAX_PAGES = 600
_PAGE_SIZE = 100
_MAX_LIST_BYTES = 8 * 1024 * 1024
_LIST_RETRY_SECONDS = 1.0
_CANCEL_SECONDS = 10.0
_ROOM_FOR_THE_REST = 64 * 1024
"""Bytes of a message beside the result that it carries."""


class GrpcProviderAdapter:
    """Calls servers of `coxswain.tools.v1.ToolProvider`.

    What has been sent is never sent again, unless the provider says that it has not seen it.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        credentials: RequestCredentials,
        *,
        authorities: bytes | None = None,
        max_result_bytes: int = 16 * 1024 * 1024,
        connect_seconds: float = 10.0,
        idle_seconds: float = 60.0,
        look_up_seconds: float = 30.0,
    ) -> None:
        """`authorities` is the PEM of those that certificates are checked against; None means those of gRPC.

        `look_up_seconds` is how long a provider that does not answer is asked what became of a call.
        """
        self._credentials = credentials
        self._look_up_seconds = look_up_seconds
        self._channels = PeerChannels(
            policy,
            authorities=authorities,
            max_message_bytes=max_result_bytes + _ROOM_FOR_THE_REST,
            connect_seconds=connect_seconds,
            idle_seconds=idle_seconds,
        )
        self._cancelling = CallCancelling(_CANCEL_SECONDS)
        self._kept: AsyncCache[str, list[ListedTool]] = AsyncCache(_KEPT_LISTS, _KEPT_SECONDS)
        self._rereads = Rereads()

    async def list_tools(self, source: ToolSourceSpec, principal: Principal) -> list[ListedTool]:
        """See the ports."""
        try:
            async with listing(source.name, "list its tools"):
                found = await self._list(self._client(source, principal))
                # At another address it is another tool.
                digest = digest_of(_provider(source).address)
                address = source.addresses[0]
                return [replace(tool, call_digest=digest, call=address) for tool in found]
        except (ForeignTextError, DecodeError) as error:
            why = str(error) if isinstance(error, ForeignTextError) else "it sent what is not a ListToolsResponse"
            raise FailedPrecondition(
                f"the tools of {source.name} cannot be used: {why}", reason="UPSTREAM_REJECTED"
            ) from None

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """See the ports."""
        call = self._call(request, progress)
        if request.tool_hash:
            await self._refuse_changed(request)
        async with self._cancelling.with_task(call):
            return await call.run()

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        """See the ports. A handle is the time of the first delivery."""
        call = self._call(request, progress)
        async with self._cancelling.with_task(call):
            return await call.resume(_time_of(handle))

    async def close(self) -> None:
        """Close all connections."""
        await self._kept.close()
        await self._cancelling.stop()
        await self._channels.close()

    async def _refuse_changed(self, request: ToolCallRequest) -> None:
        """Refuse a call of a tool that is not what the call means, by a list that is some seconds old at most.

        Raises:
            CallRefused, NotSent: it is not, or the provider gives no list.
        """
        source = request.source
        assert source is not None
        key = _list_key(source, request.principal)
        try:
            listed = await self._kept.get(key, lambda: self.list_tools(source, request.principal))
            known = next((tool for tool in listed if tool.name == request.tool), None)
            if (known is None or has_changed(request, known)) and self._rereads.begin(key, request):
                # Another process of the gateway may have read a newer list, whose changes may be accepted.
                self._kept.forget(key)
                listed = await self._kept.get(key, lambda: self.list_tools(source, request.principal))
                known = next((tool for tool in listed if tool.name == request.tool), None)
        except (Unavailable, ResourceExhausted) as error:
            raise NotSent(error.message, reason=error.reason) from None
        except CoxswainError as error:
            raise CallRefused(error.message, reason=error.reason) from None
        if known is None:
            raise CallRefused(f"{source.name} lists no tool {request.tool}", reason="TOOL_NOT_FOUND")
        refuse_changed(request, known)

    def _call(self, request: ToolCallRequest, progress: CallProgress) -> ProviderCall:
        assert request.source is not None
        return ProviderCall(
            self._client(request.source, request.principal),
            call_message(request),
            progress,
            timeout=request.max_timeout,
            look_up_seconds=self._look_up_seconds,
        )

    def _client(self, source: ToolSourceSpec, principal: Principal) -> PeerClient:
        provider = _provider(source)
        return PeerClient(
            self._channels,
            self._credentials,
            source,
            principal,
            _SERVICE,
            provider.address,
            plaintext=provider.plaintext,
        )

    async def _list(self, client: PeerClient) -> list[ListedTool]:
        tools: dict[str, ListedTool] = {}
        tokens = {""}
        token, size = "", 0
        for _ in range(_MAX_PAGES):
            data = await self._page(client, token)
            size += len(data)
            if size > _MAX_LIST_BYTES:
                raise ForeignTextError(f"the list is larger than {_MAX_LIST_BYTES} bytes")
            page = await beside_if_large(len(data), pb.ListToolsResponse.FromString, data)
            for tool in page.tools:
                if tool.name in tools:
                    raise ForeignTextError(f"it lists {tool.name} twice")
                if len(tools) == MAX_TOOLS:
                    raise ForeignTextError(f"it lists more than {MAX_TOOLS} tools")
                tools[tool.name] = await beside_if_large(tool.ByteSize(), listed_tool, tool)
            token = page.next_page_token
            if not token:
                return list(tools.values())
            if token in tokens:
                raise ForeignTextError("its pages lead back to one that was read before")
            tokens.add(token)
            await asyncio.sleep(0)
        raise ForeignTextError(f"its list has more than {_MAX_PAGES} pages")

    async def _page(self, client: PeerClient, token: str, *, renewed: bool = False) -> bytes:
        request = pb.ListToolsRequest(page_size=_PAGE_SIZE, page_token=token)
        try:
            async with client.connected() as connected:
                return await connected.ask("ListTools", request, timeout=LIST_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED or renewed or not await client.renews_credential():
                raise _list_error(client, error) from None
        return await self._page(client, token, renewed=True)


def _list_error(client: PeerClient, error: grpc.aio.AioRpcError) -> CoxswainError:
    code, text = error.code(), client.text_of(error)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return FailedPrecondition(f"{client.name} does not implement {_SERVICE}", reason="UPSTREAM_REJECTED")
    if code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
        return PermissionDenied(f"{client.name} refused the credential: {text}", reason="UPSTREAM_CREDENTIAL_REJECTED")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ResourceExhausted(
            f"{client.name} did not list its tools: {text}", reason="TOOL_RATE_LIMITED", retry_after=_LIST_RETRY_SECONDS
        )
    return Unavailable(f"{client.name} did not list its tools: {code.name}: {text}", reason="TOOL_UNAVAILABLE")


def _provider(source: ToolSourceSpec) -> GrpcProvider:
    assert isinstance(source.endpoint, GrpcProvider)
    return source.endpoint


def _list_key(source: ToolSourceSpec, principal: Principal) -> str:
    """Return what a list is kept by: it may look different to another group, user or credential."""
    subject = principal.subject if source.auth.kind is not AuthKind.NONE else ""
    given = (principal.group_id, subject, source.name, source.endpoint, source.auth, sorted(source.headers.items()))
    return hashlib.sha256(repr(given).encode(errors="replace")).hexdigest()


def _time_of(handle: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(handle)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None

"""The adapter of agents of other systems."""

import asyncio
import hashlib
from dataclasses import replace

import grpc
from a2a.types import a2a_pb2 as pb

from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.egress import AddressPolicy, origin_of
from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied, ResourceExhausted, Unavailable
from services.common.grpc.large_messages import beside_if_large
from services.common.http import EgressClient
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import A2AAgent, AuthKind, ListedTool, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.a2a.call import AgentCall
from services.orchestrator.tool_gateway.adapters.a2a.cards import (
    MAX_CARD_BYTES,
    VERSION_03,
    Agent,
    agent_of,
    card_from_json,
)
from services.orchestrator.tool_gateway.adapters.a2a.client import AgentClient, Dialect
from services.orchestrator.tool_gateway.adapters.a2a.client_03 import Dialect03
from services.orchestrator.tool_gateway.adapters.a2a.first_message import CallOrder
from services.orchestrator.tool_gateway.adapters.a2a.messages import argument_parts
from services.orchestrator.tool_gateway.adapters.a2a.sent_message import SentMessage
from services.orchestrator.tool_gateway.adapters.foreign import ForeignTextError
from services.orchestrator.tool_gateway.adapters.grpc_peer.cancelling import CallCancelling
from services.orchestrator.tool_gateway.adapters.grpc_peer.channels import PeerChannels
from services.orchestrator.tool_gateway.adapters.grpc_peer.client import PeerClient
from services.orchestrator.tool_gateway.adapters.grpc_peer.listing import LIST_SECONDS, listing
from services.orchestrator.tool_gateway.adapters.http_exchange import HttpExchange
from services.orchestrator.tool_gateway.pins import has_changed, refuse_changed
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    NotSent,
    OutcomeUnknown,
    RequestCredentials,
    ToolCallRequest,
    ToolResult,
)
from services.orchestrator.tool_gateway.rereads import Rereads

_KEPT_AGENTS = 64
_KEPT_SECONDS = 60.0
"""For which calls go by a card."""
_LIST_RETRY_SECONDS = 1.0
_CANCEL_SECONDS = 15.0
_ROOM_FOR_THE_REST = 64 * 1024
"""Bytes of a message beside the result that it carries."""
_NO_CARD = {
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
}


class A2AAdapter:
    """Calls agents over A2A 1.0 or 0.3. A message that has been sent is never sent again: its task is followed."""

    def __init__(
        self,
        egress: EgressClient,
        policy: AddressPolicy,
        credentials: RequestCredentials,
        *,
        authorities: bytes | None = None,
        max_result_bytes: int = 16 * 1024 * 1024,
        connect_seconds: float = 10.0,
        look_up_seconds: float = 30.0,
    ) -> None:
        """`authorities` is the PEM of those that certificates are checked against; None means those of gRPC.

        `look_up_seconds` is how long an agent that does not answer is asked about a task.
        """
        self._credentials = credentials
        self._look_up_seconds = look_up_seconds
        self._documents = HttpExchange(egress, credentials, max_result_bytes=MAX_CARD_BYTES)
        self._channels = PeerChannels(
            policy,
            authorities=authorities,
            max_message_bytes=max_result_bytes + _ROOM_FOR_THE_REST,
            connect_seconds=connect_seconds,
        )
        self._cancelling = CallCancelling(_CANCEL_SECONDS)
        self._agents: AsyncCache[str, Agent] = AsyncCache(_KEPT_AGENTS, _KEPT_SECONDS)
        self._rereads = Rereads()

    async def list_tools(self, source: ToolSourceSpec, principal: Principal) -> list[ListedTool]:
        """See the ports. Each skill of the agent's card is a tool."""
        key = _key(source, principal)
        self._agents.forget(key)
        return list((await self._agents.get(key, lambda: self._read(source, principal))).tools)

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """See the ports."""
        assert request.source is not None
        parts = argument_parts(request.arguments)
        agent = await self._agent(request, request.source)
        # The same in every process that finds the call: what was sent is looked for by it.
        message_id = hashlib.sha256(f"{request.principal.group_id}\n{request.call_id}".encode()).hexdigest()[:40]
        order = CallOrder(
            SentMessage(message_id, utc_now(), agent.address, agent.tenant, version=agent.version),
            tuple(parts),
            agent.skills.get(request.tool, ""),
            request.max_timeout,
            agent.streaming,
        )
        made = self._call(request, order, progress)
        async with self._cancelling.with_task(made):
            return await made.run()

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        """See the ports. A handle names the message and, once the agent has answered, its task."""
        assert request.source is not None
        sent, agent = SentMessage.from_handle(handle), _agent(request.source)
        if sent is None:
            raise OutcomeUnknown(f"{request.source.name}: nothing is kept by which its task is found", final=True)
        if agent.address and agent.address != sent.address:
            # Neither is the task there, nor may the credential go where it was.
            raise OutcomeUnknown(f"{request.source.name} is at another address than when it was called", final=True)
        made = self._call(request, CallOrder(sent, (), "", request.max_timeout), progress)
        async with self._cancelling.with_task(made):
            return await made.resume()

    async def close(self) -> None:
        """Close all connections."""
        await self._agents.close()
        await self._cancelling.stop()
        await self._channels.close()

    async def _agent(self, request: ToolCallRequest, source: ToolSourceSpec) -> Agent:
        """Return the agent of a call, by a card that is a minute old at most.

        Raises:
            CallRefused, NotSent: the tool is not what the call means, or there is no card.
        """
        key = _key(source, request.principal)
        try:
            agent = await self._agents.get(key, lambda: self._read(source, request.principal))
            known = _tool(agent, request.tool)
            if (known is None or has_changed(request, known)) and self._rereads.begin(key, request):
                # Another process of the gateway may have read a newer card, whose changes may be accepted.
                self._agents.forget(key)
                agent = await self._agents.get(key, lambda: self._read(source, request.principal))
                known = _tool(agent, request.tool)
        except (Unavailable, ResourceExhausted) as error:
            raise NotSent(error.message, reason=error.reason) from None
        except CoxswainError as error:
            raise CallRefused(error.message, reason=error.reason) from None
        if known is None:
            raise CallRefused(f"the card of {source.name} lists no skill {request.tool}", reason="TOOL_NOT_FOUND")
        refuse_changed(request, known)
        return agent

    async def _read(self, source: ToolSourceSpec, principal: Principal) -> Agent:
        """Read the card of a source, the extended one where there is one.

        Raises:
            CoxswainError: it cannot be read, or not be used.
        """
        try:
            async with listing(source.name, "give its card"):
                return await self._found(source, principal)
        except ForeignTextError as error:
            raise FailedPrecondition(
                f"the agent of {source.name} cannot be used: {error}", reason="UPSTREAM_REJECTED"
            ) from None

    async def _found(self, source: ToolSourceSpec, principal: Principal) -> Agent:
        endpoint = _agent(source)
        if not endpoint.card_url:
            return await self._asked(source, principal, endpoint)
        # The credential is for the origin that the source names, and for no other one.
        own = bool(endpoint.address) and origin_of(endpoint.card_url) == origin_of(source.addresses[0])
        data = await self._documents.read(source if own else None, principal, endpoint.card_url, MAX_CARD_BYTES)
        agent = await _agent_of(await asyncio.to_thread(card_from_json, data.decode("utf-8", "replace")), endpoint)
        client = self._client(source, principal, agent.address, agent.tenant, agent.version)
        if not agent.has_extended_card:
            # The list says that the agent can be called: that it can be reached shows here.
            async with client.peer.connected():
                return agent
        try:
            return await self._extended(client, endpoint, agent)
        except FailedPrecondition:
            return agent
        except PermissionDenied:
            if source.auth.kind is not AuthKind.NONE:
                raise
            return agent

    async def _asked(self, source: ToolSourceSpec, principal: Principal, endpoint: A2AAgent) -> Agent:
        """Return the agent of the card that it gives of itself, over 0.3 where it does not know the service of 1.0."""
        try:
            client = self._client(source, principal, endpoint.address, endpoint.tenant)
            return await self._extended(client, endpoint)
        except _UnknownService as unknown:
            client = self._client(source, principal, endpoint.address, endpoint.tenant, VERSION_03)
            try:
                return await self._extended(client, endpoint)
            except _UnknownService:
                raise unknown from None

    async def _extended(self, client: AgentClient, endpoint: A2AAgent, public: Agent | None = None) -> Agent:
        request = pb.GetExtendedAgentCardRequest(tenant=client.tenant)
        try:
            card = await client.ask("GetExtendedAgentCard", request, pb.AgentCard, timeout=LIST_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _card_error(client, error) from None
        agent = await _agent_of(card, endpoint, public)
        # One that has answered over 0.3 is called over it, whatever its card says.
        return replace(agent, version=client.version or agent.version)

    def _call(self, request: ToolCallRequest, order: CallOrder, progress: CallProgress) -> AgentCall:
        assert request.source is not None
        sent = order.sent
        client = self._client(request.source, request.principal, sent.address, sent.tenant, sent.version)
        return AgentCall(client, order, progress, look_up_seconds=self._look_up_seconds)

    def _client(
        self, source: ToolSourceSpec, principal: Principal, address: str, tenant: str, version: str = ""
    ) -> AgentClient:
        dialect = Dialect03() if version == VERSION_03 else Dialect()
        peer = PeerClient(
            self._channels,
            self._credentials,
            source,
            principal,
            dialect.service,
            address,
            plaintext=_agent(source).plaintext,
            metadata=dialect.metadata(tenant),
        )
        return AgentClient(peer, tenant, dialect)


class _UnknownService(FailedPrecondition):
    """An agent has no such method."""


async def _agent_of(card: pb.AgentCard, endpoint: A2AAgent, public: Agent | None = None) -> Agent:
    return await beside_if_large(card.ByteSize(), agent_of, card, endpoint, public)


def _card_error(client: AgentClient, error: grpc.aio.AioRpcError) -> CoxswainError:
    code, text = error.code(), client.peer.text_of(error)
    if code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
        return PermissionDenied(f"{client.name} refused the credential: {text}", reason="UPSTREAM_CREDENTIAL_REJECTED")
    if code in _NO_CARD:
        refused = _UnknownService if code is grpc.StatusCode.UNIMPLEMENTED else FailedPrecondition
        return refused(
            f"{client.name} gives no card over gRPC ({code.name}: {text}): check address and tenant, or set card_url",
            reason="UPSTREAM_REJECTED",
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ResourceExhausted(
            f"{client.name} did not give its card: {text}", reason="TOOL_RATE_LIMITED", retry_after=_LIST_RETRY_SECONDS
        )
    return Unavailable(f"{client.name} did not give its card: {code.name}: {text}", reason="TOOL_UNAVAILABLE")


def _agent(source: ToolSourceSpec) -> A2AAgent:
    assert isinstance(source.endpoint, A2AAgent)
    return source.endpoint


def _tool(agent: Agent, name: str) -> ListedTool | None:
    return next((tool for tool in agent.tools if tool.name == name), None)


def _key(source: ToolSourceSpec, principal: Principal) -> str:
    """Return what an agent is kept by: it may look different to another group, user or credential."""
    subject = principal.subject if source.auth.kind is not AuthKind.NONE else ""
    given = (principal.group_id, subject, source.name, source.endpoint, source.auth, sorted(source.headers.items()))
    return hashlib.sha256(repr(given).encode(errors="replace")).hexdigest()

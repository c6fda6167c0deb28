"""The tool gateway as worker hosts and the API call it."""

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from coxswain.auth.v1 import principal_pb2
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from coxswain.orchestrator.v1.tool_gateway_service_pb2_grpc import ToolGatewayServiceStub
from services.common.grpc.call import acting_as
from services.common.grpc.json_values import to_struct
from services.common.grpc.peers import Peers
from services.common.ids import new_id
from services.orchestrator.domain.tool_source import ToolSource, ToolSourceSpec
from tests.support.harness import ALICE, Harness

if TYPE_CHECKING:
    from coxswain.orchestrator.v1.tool_gateway_service_pb2_grpc import ToolGatewayServiceAsyncStub


class FixedSources:
    """Sources that do not change; see `services.orchestrator.tool_gateway.ports.Sources`."""

    def __init__(self, specs: Iterable[ToolSourceSpec], *, group_id: str = "sales") -> None:
        now = datetime.now(UTC)
        self.sources = [
            ToolSource(id=new_id(), group_id=group_id, revision=1, spec=spec, tools=(), created_at=now, updated_at=now)
            for spec in specs
        ]

    async def by_name(self, group_id: str, name: str) -> ToolSourceSpec | None:
        return next((s.spec for s in self.sources if s.group_id == group_id and s.spec.name == name), None)

    async def by_id(self, group_id: str, source_id: str) -> ToolSourceSpec | None:
        return next((s.spec for s in self.sources if s.group_id == group_id and s.id == source_id), None)


class GatewayCaller:
    """Calls the gateway as the orchestrator, on behalf of people or of executions."""

    def __init__(self, peers: Peers, public: Any) -> None:
        """`public` is a channel to auth's public listener that carries no identity."""
        self._peers = peers
        self._public = public
        self._tokens: dict[str, str] = {}

    @classmethod
    def of(cls, harness: Harness) -> "GatewayCaller":
        """Return a caller of a gateway that `serve_services` serves."""
        return cls(harness.peers("orchestrator"), harness.channel(""))

    @property
    def stub(self) -> "ToolGatewayServiceAsyncStub":
        return ToolGatewayServiceStub(self._peers.channel("tools"))

    async def principal(self, bearer: str = ALICE) -> str:
        """Return a principal token of a development identity."""
        if bearer not in self._tokens:
            request = principal_pb2.ExchangeTokenRequest(authorization=f"Bearer {bearer}")
            self._tokens[bearer] = (await AuthServiceStub(self._public).ExchangeToken(request)).principal_token
        return self._tokens[bearer]

    async def events(
        self,
        tool: str,
        arguments: str = "{}",
        *,
        bearer: str = ALICE,
        call_id: str = "",
        config: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> AsyncIterator[pb.ExecuteToolCallResponse]:
        """Make or follow a call and yield what happens to it; a new call without `call_id`."""
        request = pb.ExecuteToolCallRequest(
            call_id=call_id or new_id(), tool=tool, arguments_json=arguments, config=to_struct(config or {}), **fields
        )
        with acting_as(await self.principal(bearer)):
            stream = self.stub.ExecuteToolCall(request)
            async for event in stream:
                yield event

    async def call(self, tool: str, arguments: str = "{}", **fields: Any) -> pb.ToolOutcome:
        """Make or follow a call and return its outcome; see `events`."""
        *_, last = [event async for event in self.events(tool, arguments, **fields)]
        assert last.WhichOneof("event") == "outcome"
        return last.outcome

    async def cancel(self, call_id: str, bearer: str = ALICE) -> pb.ToolOutcome:
        """Cancel a call and return how it has ended."""
        with acting_as(await self.principal(bearer)):
            return (await self.stub.CancelToolCall(pb.CancelToolCallRequest(call_id=call_id))).outcome

    async def answer(self, call_id: str, number: int, action: str = "accept", **content: Any) -> bool:
        """Answer a source's question, and return whether it was still open."""
        request = pb.AnswerSourceQuestionRequest(
            call_id=call_id, number=number, action=action, content=to_struct(content)
        )
        with acting_as(await self.principal()):
            return (await self.stub.AnswerSourceQuestion(request)).taken

    async def list(self, source_id: str, bearer: str = ALICE) -> list[pb.SourceTool]:
        """Return the tools of a source."""
        with acting_as(await self.principal(bearer)):
            return list((await self.stub.ListSourceTools(pb.ListSourceToolsRequest(source_id=source_id))).tools)

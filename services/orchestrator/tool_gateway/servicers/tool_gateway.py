"""ToolGatewayService at the edge."""

from collections.abc import AsyncIterator

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from coxswain.orchestrator.v1.tool_gateway_service_pb2_grpc import ToolGatewayServiceServicer
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.orchestrator.domain.gateway_call import CallKey
from services.orchestrator.tool_gateway.ports import Sources
from services.orchestrator.tool_gateway.servicers.messages import (
    answer_from_proto,
    event_to_proto,
    listed_tool_to_proto,
    order_from_proto,
    outcome_to_proto,
)
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from services.orchestrator.tool_gateway.usecases.builtin_problems import BuiltinProblems
from services.orchestrator.tool_gateway.usecases.source_tools import SourceTools
from services.orchestrator.tool_gateway.usecases.tool_calls import ToolCalls


class ToolGatewayServicer(ToolGatewayServiceServicer):
    """Calls of tools, and lists of sources."""

    def __init__(
        self,
        calls: ToolCalls,
        source_tools: SourceTools,
        problems: BuiltinProblems,
        sources: Sources,
        settings: ToolGatewaySettings,
    ) -> None:
        self._calls = calls
        self._source_tools = source_tools
        self._problems = problems
        self._sources = sources
        self._settings = settings

    async def ExecuteToolCall(
        self, request: pb.ExecuteToolCallRequest, context: Context
    ) -> AsyncIterator[pb.ExecuteToolCallResponse]:
        """See the proto."""
        principal = current_principal()
        source_name, slash, _ = request.tool.partition("/")
        source = await self._sources.by_name(principal.group_id, source_name) if slash else None
        order = order_from_proto(
            request,
            principal,
            source,
            timeout=self._settings.default_timeout_seconds,
            max_timeout=self._settings.max_timeout_seconds,
        )
        async for event in self._calls.execute(order):
            yield event_to_proto(event)

    async def AnswerSourceQuestion(
        self, request: pb.AnswerSourceQuestionRequest, context: Context
    ) -> pb.AnswerSourceQuestionResponse:
        """See the proto."""
        key = CallKey(current_principal().group_id, request.call_id)
        taken = await self._calls.answer(key, request.number, answer_from_proto(request))
        return pb.AnswerSourceQuestionResponse(taken=taken)

    async def CancelToolCall(self, request: pb.CancelToolCallRequest, context: Context) -> pb.CancelToolCallResponse:
        """See the proto."""
        principal = current_principal()
        outcome = await self._calls.cancel(CallKey(principal.group_id, request.call_id), principal.execution_id)
        return pb.CancelToolCallResponse(outcome=outcome_to_proto(outcome, replayed=False))

    async def ListSourceTools(self, request: pb.ListSourceToolsRequest, context: Context) -> pb.ListSourceToolsResponse:
        """See the proto."""
        tools = await self._source_tools.list(current_principal(), request.source_id)
        return pb.ListSourceToolsResponse(tools=map(listed_tool_to_proto, tools))

    async def ListUnavailableTools(
        self, request: pb.ListUnavailableToolsRequest, context: Context
    ) -> pb.ListUnavailableToolsResponse:
        """See the proto."""
        found = await self._problems.find(current_principal())
        return pb.ListUnavailableToolsResponse(
            tools=[pb.UnavailableTool(name=one.tool, reason=one.reason, message=one.message) for one in found]
        )

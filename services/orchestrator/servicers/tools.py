"""ToolService at the edge."""

from coxswain.orchestrator.v1 import tool_pb2 as pb
from coxswain.orchestrator.v1 import tool_usage_pb2
from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceServicer
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.common.grpc.json_values import from_struct
from services.orchestrator.messages.tool_usage import tool_usage_query_from_proto, tool_usage_row_to_proto
from services.orchestrator.messages.tools import tested_call_to_proto, tool_to_proto
from services.orchestrator.usecases.tool_usage import ToolUsage
from services.orchestrator.usecases.tools import Tools


class ToolServicer(ToolServiceServicer):
    """The tools that crews can use, and what their calls have used."""

    def __init__(self, tools: Tools, usage: ToolUsage) -> None:
        self._tools = tools
        self._usage = usage

    async def ListTools(self, request: pb.ListToolsRequest, context: Context) -> pb.ListToolsResponse:
        """See the proto."""
        page = await self._tools.page(current_principal(), request.page_size, request.page_token, request.source)
        return pb.ListToolsResponse(tools=map(tool_to_proto, page.items), next_page_token=page.next_page_token)

    async def TestTool(self, request: pb.TestToolRequest, context: Context) -> pb.TestToolResponse:
        """See the proto."""
        principal = current_principal()
        tested = await self._tools.test(
            principal,
            request.name,
            from_struct("arguments", request.arguments, exact=True),
            from_struct("config", request.config),
            request_key(principal, request),
            allow_side_effects=request.allow_side_effects,
        )
        return tested_call_to_proto(tested)

    async def QueryToolUsage(
        self, request: tool_usage_pb2.QueryToolUsageRequest, context: Context
    ) -> tool_usage_pb2.QueryToolUsageResponse:
        """See the proto."""
        query = tool_usage_query_from_proto(request)
        page = await self._usage.page(current_principal(), query, request.page_size, request.page_token)
        return tool_usage_pb2.QueryToolUsageResponse(
            rows=[tool_usage_row_to_proto(query, row) for row in page.items], next_page_token=page.next_page_token
        )

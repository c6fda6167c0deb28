"""ToolService at the edge."""

from collections.abc import Mapping

from coxswain.orchestrator.v1 import tool_pb2 as pb
from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceServicer
from services.common.grpc.handler import Context
from services.common.grpc.json_values import to_struct
from services.orchestrator.domain.tool import Tool


class ToolServicer(ToolServiceServicer):
    """What the tool factory can build."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._response = pb.ListToolsResponse(
            tools=[
                pb.Tool(
                    name=tool.name,
                    description=tool.description,
                    config_schema=to_struct(tool.config_schema),
                    arguments_schema=to_struct(tool.arguments_schema),
                    idempotent=tool.idempotent,
                )
                for tool in tools.values()
            ]
        )

    async def ListTools(self, request: pb.ListToolsRequest, context: Context) -> pb.ListToolsResponse:
        """See the proto."""
        return self._response

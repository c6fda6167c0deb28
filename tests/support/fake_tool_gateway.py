"""A tool gateway that lists what a test wants and answers calls from a script, over real gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from coxswain.orchestrator.v1.tool_gateway_service_pb2_grpc import (
    ToolGatewayServiceServicer,
    add_ToolGatewayServiceServicer_to_server,
)
from services.common.errors import CoxswainError
from services.common.grpc.json_values import to_struct
from services.common.grpc.status import failure_metadata, to_status

OBJECT: dict[str, Any] = {"type": "object", "properties": {"amount": {"type": "number"}}}


def tool(name: str, description: str = "", schema: dict[str, Any] | None = None, **fields: Any) -> pb.SourceTool:
    """Return a tool of a list."""
    return pb.SourceTool(
        name=name,
        description=description or f"{name} something.",
        arguments_schema=to_struct(OBJECT if schema is None else schema),
        **fields,
    )


@dataclass
class FakeToolGateway(ToolGatewayServiceServicer):
    """What it was asked is kept."""

    tools: list[pb.SourceTool] = field(default_factory=list)
    """What every source lists."""
    failure: CoxswainError | None = None
    """What listing fails with instead."""
    outcome: pb.ToolOutcome = field(
        default_factory=lambda: pb.ToolOutcome(result=pb.ToolCallResult(text="done", structured_json='{"ok": true}'))
    )
    question: pb.SourceQuestion | None = None
    listed: list[str] = field(default_factory=list)
    calls: list[pb.ExecuteToolCallRequest] = field(default_factory=list)
    answers: list[pb.AnswerSourceQuestionRequest] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    """Why tools of the gateway's own cannot be used."""
    hold: asyncio.Event | None = None
    """While it is there and not set, listing waits."""

    async def ListSourceTools(self, request: pb.ListSourceToolsRequest, context: Any) -> pb.ListSourceToolsResponse:
        """Answer as the test says."""
        self.listed.append(request.source_id)
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            code, status = to_status(self.failure, "")
            context.set_trailing_metadata(failure_metadata(self.failure, status))
            await context.abort(code, self.failure.message)
        return pb.ListSourceToolsResponse(tools=self.tools)

    async def ListUnavailableTools(
        self, request: pb.ListUnavailableToolsRequest, context: Any
    ) -> pb.ListUnavailableToolsResponse:
        """Answer as the test says."""
        found = [pb.UnavailableTool(name=name, message=message) for name, message in self.unavailable.items()]
        return pb.ListUnavailableToolsResponse(tools=found)

    async def ExecuteToolCall(
        self, request: pb.ExecuteToolCallRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteToolCallResponse]:
        """Answer as the test says."""
        self.calls.append(request)
        yield pb.ExecuteToolCallResponse(progress=pb.ToolProgress(text="half way", fraction=0.5))
        if self.question is not None:
            yield pb.ExecuteToolCallResponse(question=self.question)
        yield pb.ExecuteToolCallResponse(outcome=self.outcome)

    async def AnswerSourceQuestion(
        self, request: pb.AnswerSourceQuestionRequest, context: Any
    ) -> pb.AnswerSourceQuestionResponse:
        """Keep the answer."""
        self.answers.append(request)
        return pb.AnswerSourceQuestionResponse(taken=True)

    async def CancelToolCall(self, request: pb.CancelToolCallRequest, context: Any) -> pb.CancelToolCallResponse:
        """Say that the call has ended."""
        return pb.CancelToolCallResponse(outcome=self.outcome)


@contextlib.asynccontextmanager
async def serve_fake_gateway(gateway: FakeToolGateway, port: int = 0) -> AsyncIterator[str]:
    """Serve a gateway on loopback, on a free port without one, and yield its address."""
    server = grpc.aio.server()
    add_ToolGatewayServiceServicer_to_server(gateway, server)
    alive = health.aio.HealthServicer()
    await alive.set("coxswain.orchestrator.v1.ToolGatewayService", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)  # type: ignore[no-untyped-call,unused-ignore]
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)

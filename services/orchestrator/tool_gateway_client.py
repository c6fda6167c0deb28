"""The tool gateway, as use cases see it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterable, Mapping
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from coxswain.orchestrator.v1 import tool_gateway_service_pb2, tool_gateway_service_pb2_grpc
from services.common.errors import InvalidArgument, Unavailable
from services.common.group_lines import wait_without_turn
from services.common.grpc.json_values import from_struct, to_struct
from services.common.grpc.peers import Peers
from services.common.grpc.status import from_rpc_error
from services.common.grpc.times import duration_to_proto
from services.common.release import METADATA_KEY
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.domain.tool_source import ListedTool
from services.orchestrator.usecases.ports import TestedCall

logger = structlog.get_logger(__name__)

_SERVICE = "tools"
_FULL_NAME = tool_gateway_service_pb2.DESCRIPTOR.services_by_name["ToolGatewayService"].full_name
_DEPENDENCY = "tool gateway"
_LIST_SECONDS = 45.0
# A gateway that was started together with this process serves a little later.
_START_SECONDS = 10.0
_UNAVAILABLE_SECONDS = 6.0
_SERVING_SECONDS = 2.0


class RemoteToolGateway:
    """See `ports.ToolGateway`."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    @property
    def _stub(self) -> "tool_gateway_service_pb2_grpc.ToolGatewayServiceAsyncStub":
        # The channel is opened when it is first needed.
        stub: tool_gateway_service_pb2_grpc.ToolGatewayServiceAsyncStub = (
            tool_gateway_service_pb2_grpc.ToolGatewayServiceStub(self._peers.channel(_SERVICE))
        )
        return stub

    async def list_tools(self, source_id: str) -> list[ListedTool]:
        """See `ports.ToolGateway`."""
        wait_without_turn()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await self._peers.channel(_SERVICE).channel_ready()
        try:
            response = await self._stub.ListSourceTools(
                pb.ListSourceToolsRequest(source_id=source_id), timeout=_LIST_SECONDS
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, _DEPENDENCY) from error
        try:
            return [_listed(tool) for tool in response.tools]
        except InvalidArgument as error:
            said = f"the source lists a tool that cannot be read: {error.message}"
            raise Unavailable(said, reason="TOOL_UNAVAILABLE") from error

    async def unavailable(self) -> dict[str, str]:
        """See `ports.ToolGateway`."""
        wait_without_turn()
        try:
            response = await self._stub.ListUnavailableTools(
                pb.ListUnavailableToolsRequest(), timeout=_UNAVAILABLE_SECONDS
            )
        except grpc.RpcError as error:
            logger.info("unavailable_tools_not_known", reason=from_rpc_error(error, _DEPENDENCY).reason)
            return {}
        return {tool.name: tool.message for tool in response.tools}

    async def release(self) -> str | None:
        """See `ports.ToolGateway`."""
        health: Any = health_pb2_grpc.HealthStub(self._peers.channel(_SERVICE))
        try:
            call = health.Check(health_pb2.HealthCheckRequest(service=_FULL_NAME), timeout=_SERVING_SECONDS)
            answer, metadata = await call, await call.trailing_metadata()
        except grpc.RpcError:
            return None
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            return None
        return str(dict(metadata).get(METADATA_KEY, ""))

    async def test(
        self, call_id: str, tool: ResolvedTool, arguments: Mapping[str, Any], *, begun_before: bool
    ) -> TestedCall:
        """See `ports.ToolGateway`."""
        request = pb.ExecuteToolCallRequest(
            call_id=call_id,
            tool=tool.name,
            tool_hash=tool.hash if tool.source_id else "",
            arguments_json=json.dumps(dict(arguments)),
            config=to_struct(tool.config),
            idempotent=tool.idempotent,
            timeout=duration_to_proto(tool.timeout),
            max_timeout=duration_to_proto(tool.max_timeout),
            begun_before=begun_before,
        )
        wait_without_turn()
        try:
            return await self._outcome(call_id, self._stub.ExecuteToolCall(request))
        except grpc.RpcError as error:
            failure = from_rpc_error(error, _DEPENDENCY)
            if tool.idempotent or failure.metadata.get("dependency") != _DEPENDENCY:
                raise failure from error
            raise Unavailable(
                f"{failure.message}; whether the call had an effect is not known", reason="TOOL_OUTCOME_UNKNOWN"
            ) from error

    async def _outcome(self, call_id: str, events: AsyncIterable[pb.ExecuteToolCallResponse]) -> TestedCall:
        async for event in events:
            if event.WhichOneof("event") == "question":
                # Nobody is there who could answer it.
                answer = pb.AnswerSourceQuestionRequest(call_id=call_id, number=event.question.number, action="cancel")
                await self._stub.AnswerSourceQuestion(answer)
            elif event.WhichOneof("event") == "outcome":
                return _tested(call_id, event.outcome)
        return TestedCall(call_id, unknown="the tool gateway has told nothing of its end")


def _tested(call_id: str, outcome: pb.ToolOutcome) -> TestedCall:
    replayed = outcome.replayed
    match outcome.WhichOneof("outcome"):
        case "result":
            result = outcome.result
            return TestedCall(call_id, result.text, result.structured_json, is_error=result.is_error, replayed=replayed)
        case "failure":
            failure = outcome.failure
            return TestedCall(
                call_id,
                failure_reason=failure.reason or "TOOL_UNAVAILABLE",
                failure=failure.message,
                temporary=failure.temporary,
                made=failure.made,
                replayed=replayed,
            )
        case _:
            unknown = outcome.unknown.message or "the end of the call is not known"
            return TestedCall(call_id, unknown=unknown, replayed=replayed)


def _listed(tool: pb.SourceTool) -> ListedTool:
    return ListedTool(
        name=tool.name,
        description=tool.description,
        arguments_schema=from_struct("arguments_schema", tool.arguments_schema),
        title=tool.title,
        output_schema=from_struct("output_schema", tool.output_schema) if tool.HasField("output_schema") else None,
        idempotent_hint=tool.idempotent_hint if tool.HasField("idempotent_hint") else None,
        warnings=tuple(tool.warnings),
        call_digest=tool.call_digest,
        call=tool.call,
        hash=tool.hash,
    )

"""Who makes a call of a tool: the host itself for its own tools, the tool gateway for all others."""

import asyncio
import json
from collections.abc import Mapping

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.errors import CoxswainError
from services.common.grpc.json_values import from_struct
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.worker.host.call_listener import Listener
from services.orchestrator.worker.host.call_outcomes import text_for_model
from services.orchestrator.worker.host.execution_files import ExecutionFiles
from services.orchestrator.worker.host.host_tools.base import HostTool, HostToolCall, HostToolError
from services.orchestrator.worker.host.peer_retry import is_absence
from services.orchestrator.worker.host.tool_gateway_client import ToolGateway


class ToolExecutors:
    """Makes calls. Those of the host may be made twice: a repeated one asks for what it asked for before."""

    def __init__(self, gateway: ToolGateway, host_tools: Mapping[str, HostTool], files: ExecutionFiles) -> None:
        """`files` are those of the execution, among which the ones that tools make are kept."""
        self._gateway = gateway
        self._files = files
        self._host_tools = host_tools

    async def reachable(self, tool: ResolvedTool) -> bool:
        """Return whether calls of a tool can be made now, waiting a while for the gateway."""
        return tool.name in self._host_tools or await self._gateway.reachable()

    async def execute(
        self, tool: ResolvedTool, request: pb.ExecuteToolCallRequest, listener: Listener
    ) -> pb.ToolOutcome:
        """Return the outcome of a call.

        Raises:
            LeftWaiting: a person has to answer first.
            CredentialExpired: the user's credential has expired.
            CoxswainError: the execution may not act; nobody was asked.
        """
        own = self._host_tools.get(tool.name)
        if own is None:
            outcome = await self._gateway.execute(request, listener)
            return await self._with_files(outcome, request.call_id, listener)
        call = HostToolCall(
            call_id=request.call_id,
            task=listener.task,
            agent_role=listener.agent_role,
            arguments=json.loads(request.arguments_json),
            config=from_struct("config", request.config),
            result_limit=tool.result_limit,
            listener=listener,
        )
        try:
            async with asyncio.timeout(tool.max_timeout):
                return _returned(await own.call(call))
        except HostToolError as error:
            return _returned(str(error), is_error=True)
        except CoxswainError as error:
            return _failed(error.reason, error.message, temporary=is_absence(error))
        except TimeoutError:
            message = f"{tool.name} took longer than {tool.max_timeout:g} s"
            return _failed("TOOL_TIMEOUT", message, temporary=True, made=True)

    async def _with_files(self, outcome: pb.ToolOutcome, call_id: str, listener: Listener) -> pb.ToolOutcome:
        """Store the files that a call has made, and name them to the model."""
        if not outcome.result.artifact_ids:
            return outcome
        stored, refused = await self._files.take_over(listener.task, call_id, outcome.result.artifact_ids)
        notes = [f"[File {one.name}: {one.media_type}, {one.size:,} bytes]" for one in stored]
        if refused:
            notes.append(f"[A file was not kept: {refused}]")
        text = text_for_model(outcome.result)
        return _returned("\n".join(filter(None, [text, *notes])), is_error=outcome.result.is_error)

    async def cancel(self, tool: str, call_id: str) -> pb.ToolOutcome:
        """Take a call back that nobody follows any more, and return how it has ended."""
        if tool in self._host_tools:
            return _failed("TOOL_CANCELLED", "the call was cancelled", temporary=True)
        return await self._gateway.cancel(call_id)


def _returned(text: str, *, is_error: bool = False) -> pb.ToolOutcome:
    return pb.ToolOutcome(result=pb.ToolCallResult(text=text, is_error=is_error))


def _failed(reason: str, message: str, *, temporary: bool, made: bool = False) -> pb.ToolOutcome:
    failure = pb.ToolFailure(reason=reason, message=message, temporary=temporary, made=made)
    return pb.ToolOutcome(failure=failure)

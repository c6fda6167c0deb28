"""Tools: domain to messages."""

from coxswain.orchestrator.v1 import tool_pb2
from services.common.grpc.enums import enum_to_proto
from services.common.grpc.json_values import to_struct
from services.orchestrator.usecases.ports import TestedCall
from services.orchestrator.usecases.tools import KnownTool


def tool_to_proto(tool: KnownTool) -> tool_pb2.Tool:
    """Return a tool as callers see it."""
    resolved = tool.resolved
    return tool_pb2.Tool(
        name=resolved.name,
        description=resolved.description,
        config_schema=None if tool.config_schema is None else to_struct(tool.config_schema),
        arguments_schema=to_struct(resolved.arguments_schema),
        idempotent=resolved.idempotent,
        title=tool.title,
        source=tool.source,
        hash=resolved.hash,
        enabled=not resolved.problem,
        problem=resolved.problem,
        approval=enum_to_proto(tool_pb2.ToolApproval, resolved.approval),
        output_schema=None if tool.output_schema is None else to_struct(tool.output_schema),
        model_name=resolved.model_name,
        idempotent_hint=tool.idempotent_hint,
        warnings=tool.warnings,
    )


def tested_call_to_proto(call: TestedCall) -> tool_pb2.TestToolResponse:
    """Return how a call outside of an execution has ended as callers see it."""
    message = tool_pb2.TestToolResponse(call_id=call.call_id)
    if call.unknown:
        message.unknown = call.unknown
    elif call.failure_reason:
        message.failure.reason, message.failure.message = call.failure_reason, call.failure
        message.failure.temporary = call.temporary
    else:
        message.result.text, message.result.structured_json = call.text, call.structured_json
        message.result.is_error = call.is_error
    return message

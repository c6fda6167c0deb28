"""Messages of the tool gateway."""

import json
import math
from typing import Any

from google.protobuf.duration_pb2 import Duration

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.grpc.json_values import from_struct, to_struct
from services.common.identity.principal import Principal
from services.orchestrator.domain.crew import ToolSpec
from services.orchestrator.domain.tool_outcome import Failed, Outcome, Returned
from services.orchestrator.domain.tool_source import ListedTool, ToolSourceSpec
from services.orchestrator.setting_faults import setting_faults
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_gateway.ports import SourceAnswer, ToolCallRequest
from services.orchestrator.tool_gateway.usecases.call_board import Asked, CallEvent, Ended, Sign
from services.orchestrator.tool_gateway.usecases.call_runner import CallOrder
from services.orchestrator.tool_identity import listed_hash

_LONGEST_SECONDS = 24 * 3600.0


def order_from_proto(
    request: pb.ExecuteToolCallRequest,
    principal: Principal,
    source: ToolSourceSpec | None,
    *,
    timeout: float,
    max_timeout: float,
) -> CallOrder:
    """Return a call; `timeout` and `max_timeout` count where the request sets none.

    Raises:
        InvalidArgument: the arguments are not a JSON object, a limit is not positive, or a built-in tool has other
            settings than it takes.
    """
    name = request.tool
    config = from_struct("config", request.config)
    if name in TOOLS and (faults := setting_faults(ToolSpec(name, config), "config")):
        raise InvalidArgument.fields(faults)
    if request.HasField("max_timeout"):
        max_timeout = _seconds("max_timeout", request.max_timeout)
    return CallOrder(
        request=ToolCallRequest(
            call_id=request.call_id,
            source=source,
            tool=name.partition("/")[2] or name,
            arguments=_arguments(request.arguments_json),
            principal=principal,
            execution_id=request.execution_id,
            idempotent=request.idempotent,
            tool_hash=request.tool_hash,
            config=config,
            labels=dict(request.labels),
            max_timeout=max_timeout,
        ),
        name=name,
        timeout=_seconds("timeout", request.timeout) if request.HasField("timeout") else timeout,
        max_timeout=max_timeout,
        grant_id=request.grant_id,
    )


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}", parse_constant=_refuse_constant)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        # UnicodeEncodeError is a ValueError: half a surrogate pair is no text.
        found = None
    if not isinstance(found, dict):
        raise InvalidArgument.field(
            "arguments_json", "must be the JSON text of an object, with finite numbers and complete characters"
        )
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _seconds(field: str, duration: Duration) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    if not math.isfinite(seconds) or not 0 < seconds <= _LONGEST_SECONDS:
        raise InvalidArgument.field(field, "must be more than 0 and at most 24 hours")
    return seconds


def answer_from_proto(request: pb.AnswerSourceQuestionRequest) -> SourceAnswer:
    """Return a person's answer."""
    return SourceAnswer(request.action, from_struct("content", request.content))


def event_to_proto(event: CallEvent) -> pb.ExecuteToolCallResponse:
    """Return what happens to a call."""
    match event:
        case Sign(text, fraction):
            return pb.ExecuteToolCallResponse(progress=pb.ToolProgress(text=text, fraction=fraction))
        case Asked(number, question):
            message = pb.SourceQuestion(number=number, text=question.text, url=question.url, key=question.key)
            if question.schema is not None:
                message.schema.update(question.schema)
            return pb.ExecuteToolCallResponse(question=message)
        case Ended(outcome, replayed):
            return pb.ExecuteToolCallResponse(outcome=outcome_to_proto(outcome, replayed=replayed))


def outcome_to_proto(outcome: Outcome, *, replayed: bool) -> pb.ToolOutcome:
    """Return how a call has ended."""
    message = pb.ToolOutcome(replayed=replayed)
    match outcome:
        case Returned():
            message.result.text = outcome.text
            message.result.structured_json = outcome.structured_json
            message.result.is_error = outcome.is_error
            message.result.artifact_ids.extend(outcome.artifact_ids)
            message.result.SetInParent()
        case Failed():
            message.failure.reason = outcome.reason
            message.failure.message = outcome.message
            message.failure.temporary = outcome.temporary
            message.failure.made = outcome.made
        case _:
            message.unknown.message = outcome.message
    return message


def listed_tool_to_proto(tool: ListedTool) -> pb.SourceTool:
    """Return a tool as its source lists it."""
    message = pb.SourceTool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        arguments_schema=to_struct(tool.arguments_schema),
        idempotent_hint=tool.idempotent_hint,
        warnings=tool.warnings,
        call_digest=tool.call_digest,
        call=tool.call,
        hash=listed_hash(tool),
    )
    if tool.output_schema is not None:
        message.output_schema.CopyFrom(to_struct(tool.output_schema))
    return message

"""Calls of tools before and after they are made: ids, outcomes, and what is told of them. Pure."""

from dataclasses import replace
from hashlib import sha256

from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.grpc.times import duration_to_proto
from services.common.storable import storable
from services.orchestrator.domain.question import Question
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.repositories.journal import ToolCall
from services.orchestrator.worker.link.errors import WAITS_FOR_PERSON, TaskError

MOST_TOLD = 4096
"""Characters of a text in events and questions."""
_UNSAID = "it failed without saying why"


def call_id(execution_id: str, index: int, key: str) -> str:
    """Return the id of a call that begins: the same whoever begins it, and however often."""
    return sha256(f"{execution_id}\n{index}\n{key}".encode()).hexdigest()


def next_call_id(before: str, round: int) -> str:  # noqa: A002 - its name everywhere
    """Return the id of a call that is made again because a person says that it had no effect before.

    Two executions that continue the same one may both be told so: they ask for one call.
    """
    return sha256(f"{before}\n{round}".encode()).hexdigest()


def text_for_model(result: pb.ToolCallResult) -> str:
    """Return what a model reads of a result: its JSON if it has some, with what its text adds to that."""
    # A text that does not begin with the JSON says the same in other words.
    if result.is_error or not result.structured_json or result.text.startswith(result.structured_json):
        return result.text
    return result.structured_json


def ended_by(row: ToolCall, outcome: pb.ToolOutcome) -> ToolCall:
    """Return a call with its outcome, which is known or does not matter."""
    match outcome.WhichOneof("outcome"):
        case "result":
            result = outcome.result
            text = storable(text_for_model(result))
            if result.is_error:
                return replace(row, state=ToolCallState.FAILED, error=text or _UNSAID)
            return replace(row, state=ToolCallState.COMPLETED, output=text)
        case "failure":
            failure = outcome.failure
            reason = failure.reason or "TOOL_UNAVAILABLE"
            return replace(row, state=ToolCallState.FAILED, error=storable(failure.message) or reason, reason=reason)
        case _:
            seen = storable(outcome.unknown.message) or "the tool gateway has sent no outcome"
            return replace(row, state=ToolCallState.FAILED, error=seen, reason="TOOL_UNAVAILABLE")


def unknown_by(row: ToolCall, outcome: pb.ToolOutcome) -> ToolCall:
    """Return a call with its unknown outcome, which matters."""
    return replace(row, state=ToolCallState.UNKNOWN, error=storable(outcome.unknown.message)[:MOST_TOLD])


def unknown_event(row: ToolCall) -> execution_pb2.ToolOutcomeUnknown:
    """Return the event of a call whose outcome is unknown."""
    return execution_pb2.ToolOutcomeUnknown(call_id=row.call_id, tool_name=row.tool, message=row.error)


def ending_event(
    row: ToolCall, seconds: float | None
) -> execution_pb2.ToolCallCompleted | execution_pb2.ToolCallFailed:
    """Return the event of a call's end, which took some seconds unless it is told again."""
    if row.state is ToolCallState.COMPLETED:
        return execution_pb2.ToolCallCompleted(
            call_id=row.call_id,
            tool_name=row.tool,
            output=row.output[:MOST_TOLD],
            output_size_bytes=len(row.output.encode()),
            duration=duration_to_proto(seconds),
        )
    return execution_pb2.ToolCallFailed(
        call_id=row.call_id, tool_name=row.tool, message=row.error[:MOST_TOLD], reason=row.reason
    )


def cut_for_model(text: str, limit: int, identity: str) -> str:
    """Return as much of a text as a model gets at once."""
    data = text.encode()
    if len(data) <= limit:
        return text
    shown = data[:limit].decode(errors="ignore")
    sizes = f"The result has {len(text):,} characters, of which these are the first {len(shown):,}"
    return f'{shown}\n[{sizes}. Read on with read_result, handle "{identity}", start {len(shown)}.]'


def waits_for_person() -> TaskError:
    """Return what ends an attempt at a task while a person is asked."""
    return TaskError(WAITS_FOR_PERSON, "a person has to be asked first", fatal=True)


def ended_by_person(call: ToolCall, question: Question) -> TaskError:
    """Return the failure of a task whose call of unknown outcome nobody has found out about: a person has declined to,
    or the question has expired.
    """
    said = f": {question.answer.reason}" if question.answer is not None and question.answer.reason else ""
    ended = f"{question.answered_by} ended the task{said}"
    if question.expired:
        ended = "nobody answered until the deadline"
    return TaskError(
        "TOOL_OUTCOME_UNKNOWN",
        f'whether the call of "{call.tool}" has taken effect is not known, and {ended}; find out, then resume the '
        "execution, which asks again",
        fatal=True,
    )

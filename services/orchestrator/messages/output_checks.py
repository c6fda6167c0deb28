"""Checks of results: messages to domain and back."""

from collections.abc import Iterable

from coxswain.orchestrator.v1 import crew_pb2
from services.common.grpc.json_values import from_struct, to_struct
from services.orchestrator.domain.crew import OutputCheck, OutputLength


def checks_from_proto(owner: str, messages: Iterable[crew_pb2.OutputCheck]) -> tuple[OutputCheck, ...]:
    """Return the checks of an agent or a task at the path `owner`. Raises InvalidArgument: a number is not finite."""
    return tuple(_check_from_proto(f"{owner}.checks[{index}]", message) for index, message in enumerate(messages))


def _check_from_proto(path: str, message: crew_pb2.OutputCheck) -> OutputCheck:
    schema = message.WhichOneof("check") == "json_schema"
    return OutputCheck(
        matches=message.matches,
        matches_not=message.matches_not,
        characters=_length_from_proto(message, "characters"),
        words=_length_from_proto(message, "words"),
        json_schema=from_struct(f"{path}.json_schema", message.json_schema) if schema else None,
        required_words=tuple(message.required_words.words),
        forbidden_words=tuple(message.forbidden_words.words),
        expression=message.expression,
        message=message.message,
    )


def _length_from_proto(message: crew_pb2.OutputCheck, name: str) -> OutputLength | None:
    if message.WhichOneof("check") != name:
        return None
    length: crew_pb2.OutputLength = getattr(message, name)
    return OutputLength(length.min, length.max)


def check_to_proto(check: OutputCheck) -> crew_pb2.OutputCheck:
    """Return a check as callers see it."""
    message = crew_pb2.OutputCheck(message=check.message)
    for name in ("matches", "matches_not", "expression"):
        if getattr(check, name):
            setattr(message, name, getattr(check, name))
    for name in ("characters", "words"):
        length: OutputLength | None = getattr(check, name)
        if length is not None:
            getattr(message, name).CopyFrom(crew_pb2.OutputLength(min=length.min, max=length.max))
    for name in ("required_words", "forbidden_words"):
        if getattr(check, name):
            getattr(message, name).words.extend(getattr(check, name))
    if check.json_schema is not None:
        message.json_schema.CopyFrom(to_struct(check.json_schema))
    return message

"""Events as they are stored: the wire's own messages, so that what is watched is what was written."""

from typing import Any

from google.protobuf.message import Message

from coxswain.orchestrator.v1 import execution_pb2
from services.orchestrator.domain.event import NewEvent, StoredEvent
from services.orchestrator.domain.execution import ExecutionError

_FIELDS = {
    field.message_type.full_name: field.name
    for field in execution_pb2.ExecutionEvent.DESCRIPTOR.oneofs_by_name["event"].fields
    if field.message_type is not None
}


def kind_from_proto(kind: execution_pb2.ExecutionEventKind.ValueType) -> str:
    """Return the kind that a value of ExecutionEventKind names."""
    return execution_pb2.ExecutionEventKind.Name(kind).removeprefix("EXECUTION_EVENT_KIND_").lower()


def kind_to_proto(kind: str) -> execution_pb2.ExecutionEventKind.ValueType:
    """Return the value of ExecutionEventKind that names a kind; UNSPECIFIED for one of a newer release."""
    value = execution_pb2.ExecutionEventKind.DESCRIPTOR.values_by_name.get(f"EXECUTION_EVENT_KIND_{kind.upper()}")
    return execution_pb2.ExecutionEventKind.ValueType(value.number if value is not None else 0)


GROUP_KINDS = frozenset(kind_from_proto(kind) for kind in execution_pb2.ExecutionEventKind.values() if kind)
"""The kinds of events that are in the stream of their group."""
_RESULTS = frozenset({"output", "result"})
"""Fields that the stream of a group leaves out, since they can be large."""


def new_event(body: Message, **fields: Any) -> NewEvent:
    """Return the event to store for one of the messages of the oneof `ExecutionEvent.event`.

    `fields` are those of `NewEvent`: task_index, task_name, attempt, call_id, time.
    """
    kind = _FIELDS[body.DESCRIPTOR.full_name]
    event = execution_pb2.ExecutionEvent()
    getattr(event, kind).CopyFrom(body)
    payload = event.SerializeToString()
    return NewEvent(
        kind=kind, payload=payload, summary=_summary(event, kind) if kind in GROUP_KINDS else None, **fields
    )


def error_to_proto(error: ExecutionError) -> execution_pb2.ExecutionError:
    """Return the reason of a failure as callers see it, which is also how events hold it."""
    return execution_pb2.ExecutionError(reason=error.reason, message=error.message, task_name=error.task_name)


def event_to_proto(execution_id: str, stored: StoredEvent) -> execution_pb2.ExecutionEvent:
    """Return a stored event as callers see it."""
    event = execution_pb2.ExecutionEvent.FromString(stored.payload)
    event.execution_id = execution_id
    event.sequence = stored.sequence
    event.time.FromDatetime(stored.time)
    event.task_name = stored.task_name
    event.task_index = stored.task_index or 0
    event.attempt = stored.attempt
    return event


def _summary(event: execution_pb2.ExecutionEvent, kind: str) -> bytes:
    body = getattr(event, kind)
    for field in body.DESCRIPTOR.fields:
        if field.name in _RESULTS:
            body.ClearField(field.name)
    return event.SerializeToString()

"""The stream of a group: requests to domain, and events to messages."""

from coxswain.orchestrator.v1 import execution_pb2
from services.orchestrator.domain.group_event import EventFilter, GroupEvent
from services.orchestrator.events import event_to_proto, kind_from_proto


def filter_from_proto(message: execution_pb2.WatchExecutionsRequest) -> EventFilter:
    """Return which events a caller wants."""
    return EventFilter(
        kinds=frozenset(map(kind_from_proto, message.kinds)),
        crew_id=message.crew_id,
        schedule_id=message.schedule_id,
        batch_id=message.batch_id,
        labels=dict(message.labels),
    )


def group_event_to_proto(event: GroupEvent | None, position: str) -> execution_pb2.WatchExecutionsResponse:
    """Return an event of a group with its position, or a position alone."""
    if event is None:
        return execution_pb2.WatchExecutionsResponse(position=position)
    return execution_pb2.WatchExecutionsResponse(
        event=event_to_proto(event.execution_id, event.event),
        position=position,
        crew_id=event.crew_id,
        crew_name=event.crew_name,
        schedule_id=event.schedule_id,
        batch_id=event.batch_id,
        labels=event.labels,
    )

"""Which events the stream of a group has, and which of them a filter shows."""

from datetime import UTC, datetime

import pytest

from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.orchestrator.domain.event import StoredEvent
from services.orchestrator.domain.group_event import EventFilter, GroupEvent, Position
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.events import GROUP_KINDS, new_event
from services.orchestrator.hints.bus import Subscription

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_each_kind_has_the_name_and_the_number_of_its_field() -> None:
    fields = {
        f"EXECUTION_EVENT_KIND_{field.name.upper()}": field.number
        for field in pb.ExecutionEvent.DESCRIPTOR.oneofs_by_name["event"].fields
        if field.name in GROUP_KINDS
    }
    assert {name: number for name, number in pb.ExecutionEventKind.items() if number} == fields


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (pb.TaskCompleted(output=pb.TaskOutput(text="long")), pb.TaskCompleted()),
        (
            pb.ExecutionSucceeded(result=pb.TaskOutput(text="long"), usage=pb.ExecutionUsage(llm_calls=1)),
            pb.ExecutionSucceeded(usage=pb.ExecutionUsage(llm_calls=1)),
        ),
        (pb.LlmChunk(text="piece"), None),
    ],
)
def test_a_group_sees_no_results_and_no_pieces(body: pb.TaskCompleted, shown: pb.TaskCompleted | None) -> None:
    stored = new_event(body)
    assert getattr(pb.ExecutionEvent.FromString(stored.payload), stored.kind) == body
    if shown is None:
        assert stored.summary is None
    else:
        assert stored.summary is not None
        assert getattr(pb.ExecutionEvent.FromString(stored.summary), stored.kind) == shown


@pytest.mark.parametrize(
    ("chosen", "shows"),
    [
        (EventFilter(), True),
        (EventFilter(frozenset({"task_failed"})), False),
        (EventFilter(frozenset({"task_failed", "task_started"}), crew_id="crew"), True),
        (EventFilter(crew_id="other"), False),
        (EventFilter(schedule_id="schedule"), False),
        (EventFilter(labels={"a": "1"}), True),
        (EventFilter(labels={"a": "1", "b": ""}), False),
    ],
)
def test_a_filter_shows_what_has_all_it_names(chosen: EventFilter, shows: bool) -> None:
    stored = StoredEvent(1, NOW, "task_started", b"", 0, "t", 1)
    assert (
        chosen.shows(GroupEvent(Position(0, 1), NOW, "e", "crew", "c", "", "", {"a": "1", "c": "2"}, stored)) is shows
    )


async def test_hints_about_one_execution_become_the_newest_and_keep_the_group() -> None:
    subscription = Subscription([HintKind.EVENTS_STORED])
    for hint in (("e", 2, "sales"), ("e", 3, ""), ("e", 1, "")):
        subscription.offer(Hint(HintKind.EVENTS_STORED, *hint))
    assert await subscription.take() == [Hint(HintKind.EVENTS_STORED, "e", 3, "sales")]

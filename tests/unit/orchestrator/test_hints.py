"""Hints within a process: what is kept for a listener, and how much."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coxswain.orchestrator.v1 import worker_pb2
from services.common.db.database import Database
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import LocalHintBus, Subscription
from services.orchestrator.hints.postgres import PostgresHintBus
from services.orchestrator.messages.workers import hint_from_proto, hint_to_proto

PUBLISHED = [kind for kind in HintKind if kind is not HintKind.RESYNC]
HINTS = st.builds(Hint, st.sampled_from(PUBLISHED), st.sampled_from("abc"), st.integers(0, 9))


@given(st.lists(HINTS), st.sets(st.sampled_from(PUBLISHED), min_size=1))
async def test_a_listener_gets_the_newest_hint_of_each_kind_and_execution_it_asked_for(
    hints: list[Hint], kinds: set[HintKind]
) -> None:
    bus = LocalHintBus()
    with bus.subscribe(*kinds) as subscription:
        for hint in hints:
            bus.publish(hint)
        taken = await subscription.take(timeout=0)
    newest: dict[Any, int] = {}
    for hint in hints:
        if hint.kind in kinds:
            key = (hint.kind, hint.execution_id)
            newest[key] = max(newest.get(key, 0), hint.last_sequence)
    assert {(hint.kind, hint.execution_id): hint.last_sequence for hint in taken} == newest
    assert len(taken) == len(newest)


async def test_nothing_comes_after_the_listener_has_left() -> None:
    bus = LocalHintBus()
    with bus.subscribe(HintKind.EXECUTION_READY) as subscription:
        pass
    bus.publish(Hint(HintKind.EXECUTION_READY, "e"))
    assert await subscription.take(timeout=0) == []


async def test_a_process_hears_its_own_hints_while_postgresql_carries_none() -> None:
    bus = PostgresHintBus(Database("postgresql://localhost/none", "orchestrator"))
    with bus.subscribe(HintKind.WORK_STORED) as subscription:
        bus.publish(Hint(HintKind.WORK_STORED, "batch"))
        assert await subscription.take(timeout=0) == [Hint(HintKind.WORK_STORED, "batch")]


async def test_every_listener_hears_of_lost_hints() -> None:
    bus = LocalHintBus()
    with bus.subscribe(HintKind.EXECUTION_READY) as subscription:
        bus.publish(Hint(HintKind.RESYNC))
        assert await subscription.take() == [Hint(HintKind.RESYNC)]


async def test_a_listener_that_does_not_listen_is_told_to_read_everything_instead_of_growing() -> None:
    subscription = Subscription([HintKind.EVENTS_STORED])
    for number in range(30_000):
        subscription.offer(Hint(HintKind.EVENTS_STORED, str(number), 1))
    taken = await subscription.take()
    assert len(taken) <= 10_000
    assert Hint(HintKind.RESYNC) in taken


async def test_waking_a_listener_returns_at_once_without_hints() -> None:
    subscription = Subscription([HintKind.EVENTS_STORED])
    subscription.wake()
    assert await subscription.take() == []


@given(HINTS)
def test_hints_pass_the_wire_unchanged(hint: Hint) -> None:
    assert hint_from_proto(hint_to_proto(hint)) == hint


def test_a_kind_of_another_release_is_no_failure() -> None:
    assert hint_from_proto(worker_pb2.Hint(kind=99, execution_id="e")) is None  # type: ignore[arg-type]

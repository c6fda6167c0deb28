"""A watch shows every event once and in order, whatever happens to its connections."""

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coxswain.client import CoxswainError, Internal, NotFound, Unauthenticated, Unavailable
from coxswain.client.watching import SequenceCursor, WatchCursor, is_terminal
from coxswain.models.v1.usage_pb2 import WatchBudgetAlertsRequest, WatchBudgetAlertsResponse
from coxswain.orchestrator.v1.execution_pb2 import (
    Execution,
    ExecutionEvent,
    ExecutionState,
    ExecutionSucceeded,
    LlmChunk,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def chunk(sequence: int) -> ExecutionEvent:
    return ExecutionEvent(sequence=sequence, llm_chunk=LlmChunk(text="x"))


def end(sequence: int) -> ExecutionEvent:
    return ExecutionEvent(sequence=sequence, execution_succeeded=ExecutionSucceeded())


@st.composite
def histories(draw: st.DrawFn) -> list[ExecutionEvent]:
    """Sequences rise and may have gaps; the last event is terminal."""
    steps = draw(st.lists(st.integers(1, 5), min_size=1, max_size=30))
    sequences = [sum(steps[: index + 1]) for index in range(len(steps))]
    return [*(chunk(sequence) for sequence in sequences[:-1]), end(sequences[-1])]


@settings(deadline=None)
@given(history=histories(), cuts=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=8))
def test_every_event_comes_once_and_in_order_however_often_the_connection_breaks(
    history: list[ExecutionEvent], cuts: list[tuple[int, int]]
) -> None:
    cursor = WatchCursor("e", clock=Clock())
    seen: list[int] = []
    for delivered, overlap in [*cuts, (len(history), 0)]:
        # A server may deliver again what it is not sure about.
        after = cursor.request().after_sequence - overlap
        rest = [event for event in history if event.sequence > after]
        seen += [event.sequence for event in rest[:delivered] if cursor.accept(event)]
        assert cursor.pause_after_failure(Unavailable("gone")) > 0
    assert seen == [event.sequence for event in history]
    assert [event.sequence for event in history if is_terminal(event)] == seen[-1:]


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("connection refused"),
        Internal("Received RST_STREAM with error code 2"),
        CoxswainError("Stream removed", code=grpc.StatusCode.UNKNOWN),
    ],
)
def test_what_a_broken_connection_looks_like_is_tried_again(error: CoxswainError) -> None:
    assert WatchCursor("e").pause_after_failure(error) < 1


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no such execution", reason="NOT_FOUND"),
        Internal("the server failed", reason="INTERNAL"),
        Unauthenticated("expired", reason="CREDENTIAL_EXPIRED"),
        CoxswainError("message larger than max", code=grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_what_another_try_cannot_mend_is_raised(error: CoxswainError) -> None:
    with pytest.raises(type(error)):
        WatchCursor("e").pause_after_failure(error)


def test_an_expired_credential_is_renewed_once() -> None:
    clock = Clock()
    cursor = WatchCursor("e", renewable=True, clock=clock)
    error = Unauthenticated("expired", reason="CREDENTIAL_EXPIRED")
    assert cursor.pause_after_failure(error) >= 0
    with pytest.raises(Unauthenticated):
        cursor.pause_after_failure(error)
    cursor.accept(chunk(1))
    assert cursor.pause_after_failure(error) >= 0
    # A connection that stood worked, though it brought nothing: this is the next credential's end.
    cursor.request()
    clock.now += 3600
    assert cursor.pause_after_failure(error) <= 0.1


def test_pauses_grow_and_begin_anew_with_the_next_event() -> None:
    cursor = WatchCursor("e", clock=Clock())
    pauses = [cursor.pause_after_failure(Unavailable("gone")) for _ in range(12)]
    assert pauses[0] <= 0.1
    assert 2.5 <= pauses[-1] <= 5
    cursor.accept(chunk(1))
    assert cursor.pause_after_failure(Unavailable("gone")) <= 0.1


def test_the_servers_own_pause_is_kept() -> None:
    assert WatchCursor("e").pause_after_failure(Unavailable("draining", retry_after=7)) == 7


def test_an_outage_ends_the_watch_in_the_end() -> None:
    clock = Clock()
    cursor = WatchCursor("e", max_outage=60, clock=clock)
    error = Unavailable("gone")
    for clock.now in range(0, 61, 5):
        cursor.request()
        cursor.pause_after_failure(error)
    clock.now = 65
    cursor.request()
    with pytest.raises(Unavailable):
        cursor.pause_after_failure(error)


def test_a_quiet_execution_whose_connection_is_cut_now_and_then_is_no_outage() -> None:
    clock = Clock()
    cursor = WatchCursor("e", max_outage=60, clock=clock)
    for _ in range(100):
        cursor.request()
        clock.now += 600
        cursor.pause_after_failure(Unavailable("connection age"))


def test_a_stream_that_ends_early_is_taken_up_again_until_the_execution_has_ended() -> None:
    cursor = WatchCursor("e", 4)
    running = Execution(state=ExecutionState.EXECUTION_STATE_RUNNING, last_sequence=4)
    ended = Execution(state=ExecutionState.EXECUTION_STATE_FAILED, last_sequence=5)
    assert cursor.pause_after_end(running)
    assert cursor.pause_after_end(ended)
    cursor.accept(chunk(5))
    assert cursor.pause_after_end(ended) is None


def test_a_watch_behind_the_end_has_nothing_to_show() -> None:
    ended = Execution(state=ExecutionState.EXECUTION_STATE_CANCELLED, last_sequence=5)
    assert WatchCursor("e", 5).pause_after_end(ended) is None


def test_a_watch_of_alerts_goes_on_where_it_stood_before_it_told_any() -> None:
    cursor = SequenceCursor(WatchBudgetAlertsRequest())
    assert cursor.request() == WatchBudgetAlertsRequest()
    for sequence in (0, 5):
        # Nothing was stored when it began: what is stored while it is away comes after 0.
        cursor.accept(WatchBudgetAlertsResponse(sequence=sequence))
        assert cursor.request() == WatchBudgetAlertsRequest(after_sequence=sequence)

"""The positions of watches, kept across lost connections."""

import random
import time
from collections.abc import Callable

import grpc

from coxswain.client.errors import CoxswainError
from coxswain.models.v1.usage_pb2 import WatchBudgetAlertsRequest, WatchBudgetAlertsResponse
from coxswain.orchestrator.v1.execution_pb2 import (
    Execution,
    ExecutionEvent,
    ExecutionState,
    WatchExecutionRequest,
    WatchExecutionsRequest,
    WatchExecutionsResponse,
)
from coxswain.orchestrator.v1.question_pb2 import WatchQuestionsRequest, WatchQuestionsResponse

TERMINAL_EVENTS = frozenset({"execution_succeeded", "execution_failed", "execution_cancelled"})
TERMINAL_STATES = frozenset(
    {
        ExecutionState.EXECUTION_STATE_SUCCEEDED,
        ExecutionState.EXECUTION_STATE_FAILED,
        ExecutionState.EXECUTION_STATE_CANCELLED,
    }
)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
# A stream that held this long was a connection that worked: what comes after it is a new outage.
_STEADY_SECONDS = 10.0
# What a broken connection looks like when no server explained the failure.
_TRANSPORT_CODES = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED})


def is_terminal(event: ExecutionEvent) -> bool:
    """Whether the event is its execution's last."""
    return event.WhichOneof("event") in TERMINAL_EVENTS


class Reconnection:
    """Decides whether, and after which pause, a watch connects again."""

    def __init__(
        self, *, max_outage: float = 300.0, renewable: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``max_outage`` is after how many seconds without a working connection the watch ends.

        ``renewable`` says that a new connection carries a new credential.
        """
        self._max_outage = max_outage
        self._renewable = renewable
        self._clock = clock
        self._connected_at = clock()
        self._outage_since: float | None = None
        self._pauses = 0

    def connects(self) -> None:
        """Note that a connection is being made."""
        self._connected_at = self._clock()

    def works(self) -> None:
        """Note that the connection brought something."""
        self._outage_since = None
        self._pauses = 0

    def pause(self) -> float:
        """Seconds to wait before the next connection."""
        longest = min(_FIRST_PAUSE * 2.0**self._pauses, _LONGEST_PAUSE)
        self._pauses = min(self._pauses + 1, 16)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnections, guards nothing

    def pause_after_failure(self, error: CoxswainError) -> float:
        """Seconds to wait before the next attempt. Raises the error if none can help or the outage is too long."""
        now = self._clock()
        if now - self._connected_at > _STEADY_SECONDS:
            self.works()
        if not self._may_pass(error):
            raise error
        if self._outage_since is None:
            self._outage_since = now
        elif now - self._outage_since > self._max_outage:
            raise error
        return max(self.pause(), error.retry_after or 0.0)

    def _may_pass(self, error: CoxswainError) -> bool:
        if error.code is grpc.StatusCode.UNAVAILABLE:
            return True
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            # Once: the next connection has a fresh credential, or there is none.
            return self._renewable and error.reason == "CREDENTIAL_EXPIRED" and self._pauses == 0
        return error.code in _TRANSPORT_CODES and not error.reason


class WatchCursor(Reconnection):
    """Remembers the last event of an execution."""

    def __init__(
        self,
        execution_id: str,
        after_sequence: int = 0,
        *,
        exclude_chunks: bool = False,
        max_outage: float = 300.0,
        renewable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start after ``after_sequence``."""
        super().__init__(max_outage=max_outage, renewable=renewable, clock=clock)
        self.execution_id = execution_id
        self.sequence = after_sequence
        self._exclude_chunks = exclude_chunks

    def request(self) -> WatchExecutionRequest:
        """The request that continues after the last event."""
        self.connects()
        return WatchExecutionRequest(
            id=self.execution_id, after_sequence=self.sequence, exclude_chunks=self._exclude_chunks
        )

    def accept(self, event: ExecutionEvent) -> bool:
        """Whether the event is new; a repeated one is to be ignored."""
        self.works()
        if event.sequence <= self.sequence:
            return False
        self.sequence = event.sequence
        return True

    def pause_after_end(self, execution: Execution) -> float | None:
        """Seconds to wait after a stream that ended by itself; None when all events of the execution were seen."""
        if execution.state in TERMINAL_STATES and execution.last_sequence <= self.sequence:
            return None
        return self.pause()


class GroupWatchCursor(Reconnection):
    """Remembers the last position in the events of a group."""

    def __init__(self, request: WatchExecutionsRequest, *, max_outage: float = 300.0, renewable: bool = False) -> None:
        """Start with ``request``, which is modified."""
        super().__init__(max_outage=max_outage, renewable=renewable)
        self._request = request

    def request(self) -> WatchExecutionsRequest:
        """The request that continues after the last position."""
        self.connects()
        return self._request

    def accept(self, response: WatchExecutionsResponse) -> None:
        """Remember the position of a response."""
        self.works()
        self._request.after_position = response.position


class SequenceCursor(Reconnection):
    """Remembers the last sequence in a stream of a group."""

    def __init__(
        self,
        request: WatchQuestionsRequest | WatchBudgetAlertsRequest,
        *,
        max_outage: float = 300.0,
        renewable: bool = False,
    ) -> None:
        """Start with ``request``, which is modified."""
        super().__init__(max_outage=max_outage, renewable=renewable)
        self._request = request

    def request(self) -> WatchQuestionsRequest | WatchBudgetAlertsRequest:
        """The request that continues after the last sequence."""
        self.connects()
        return self._request

    def accept(self, response: WatchQuestionsResponse | WatchBudgetAlertsResponse) -> None:
        """Remember the sequence of a response."""
        self.works()
        self._request.after_sequence = response.sequence

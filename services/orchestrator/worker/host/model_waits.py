"""Calls of models are made again here, with growing pauses, when they fail in a way that passes.

CrewAI would start the agent over, paid calls and all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from coxswain.orchestrator.v1 import execution_pb2
from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.errors import CoxswainError, DeadlineExceeded, FailedPrecondition, ResourceExhausted, Unavailable
from services.orchestrator.domain.execution import ModelWait
from services.orchestrator.worker.host.activity import Activity
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.settings import WorkerSettings

T = TypeVar("T")
Key = tuple[int, str]
"""A task's index and the name of a model."""
Sleep = Callable[[float], Awaitable[object]]

_OUTAGE_REASONS = frozenset({"UPSTREAM_UNAVAILABLE", "UPSTREAM_BAD_RESPONSE"})
# A limit begins anew each minute, or has room when calls of the group have ended; one of a day is not waited for.
_LIMIT_REASONS = frozenset({"BUDGET_EXCEEDED", "UPSTREAM_SHARE_EXCEEDED"})
_LONGEST_LIMIT_WAIT = 60.0
_LIMIT_SECONDS = 300.0
# Others may wait for the same minute: they do not all come back at once.
_LIMIT_PAUSES = Backoff(0.2, 0.2)
_MOST_QUOTED = 2000


@dataclass(frozen=True, slots=True)
class Patience:
    """How long models are waited for, in seconds."""

    total: float
    slot: float
    """How long an execution that only waits keeps its slot."""
    pauses: Backoff

    @classmethod
    def of(cls, settings: WorkerSettings) -> "Patience":
        """Return what the operator has chosen."""
        pauses = Backoff(settings.model_retry_base_seconds, settings.model_retry_longest_seconds)
        return cls(settings.model_retry_seconds, settings.model_wait_slot_seconds, pauses)


@dataclass(frozen=True, slots=True)
class _Asleep:
    wait: ModelWait
    may_rest: bool
    """Whether the pause is long enough to give up the slot for it."""


class ModelWaits:
    """The waits of one run. They are stored with the execution: the run after this one goes on with them."""

    def __init__(
        self,
        known: Sequence[ModelWait],
        patience: Patience,
        recorder: Recorder,
        activity: Activity,
        rest: Callable[[Sequence[ModelWait]], object],
        *,
        clock: Callable[[], datetime] = utc_now,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`rest` is called once nothing goes on in the run but waits that are long enough to give up its slot for."""
        self._waits: dict[Key, ModelWait] = {(wait.task_index, wait.model): wait for wait in known}
        self._asleep: list[_Asleep] = []
        self._patience = patience
        self._recorder = recorder
        self._activity = activity
        self._rest = rest
        self._clock = clock
        self._sleep = sleep
        activity.on_less = self._rest_if_nothing_else

    async def until_answered(
        self, journal: TaskJournal, model: str, call: Callable[[], Awaitable[T]], time_left: float | None = None
    ) -> T:
        """Return what a call of a model for a task returns, calling again while it fails in a way that passes.

        `time_left` is the agent's, in seconds.

        Raises:
            CoxswainError: the failure is one that lasts, or the next pause would be longer than there is patience.
        """
        key = (journal.index, model)
        deadline = None if time_left is None else self._clock() + timedelta(seconds=time_left)
        known = self._waits.get(key)
        if known is not None:
            # It was waited for when the run before this one ended.
            await self._pause(known, deadline)
        try:
            answer = await self._repeat(journal, model, call, deadline)
        except CoxswainError:
            self._forget(key)
            raise
        # Not when it is cancelled: the run after this one goes on with the wait.
        self._forget(key)
        return answer

    async def _repeat(
        self, journal: TaskJournal, model: str, call: Callable[[], Awaitable[T]], deadline: datetime | None
    ) -> T:
        while True:
            try:
                return await call()
            except CoxswainError as error:
                wait = self._next(journal, model, error, deadline)
            self._tell(journal, wait)
            await self._pause(wait, deadline)

    def _next(self, journal: TaskJournal, model: str, error: CoxswainError, deadline: datetime | None) -> ModelWait:
        """Return the wait that a failure leads to; raise the failure when it leads to none."""
        limit = _is_limit(error)
        if not limit and not _is_providers_bad_day(error):
            raise error
        now = self._clock()
        before = self._waits.get((journal.index, model))
        if before is not None and (before.reason in _LIMIT_REASONS) is not limit:
            before = None
        since = before.since if before else now
        failures = before.failures + 1 if before else 1
        pauses, patience = (_LIMIT_PAUSES, _LIMIT_SECONDS) if limit else (self._patience.pauses, self._patience.total)
        retry_at = now + timedelta(seconds=pauses.pause(failures, at_least=error.retry_after or 0.0))
        end = since + timedelta(seconds=patience)
        if retry_at > end:
            raise error
        # Another attempt gives the agent its time anew, but not for what it was waiting for.
        give_up_at = min(end, before.give_up_at if before else end, deadline or end)
        if before is not None and retry_at > give_up_at:
            raise _out_of_time(model, error) from error
        return ModelWait(
            task_index=journal.index,
            task_name=journal.task.task_name,
            model=model,
            reason=error.reason,
            message=error.message[:_MOST_QUOTED],
            failures=failures,
            since=since,
            retry_at=retry_at,
            give_up_at=give_up_at,
        )

    def _tell(self, journal: TaskJournal, wait: ModelWait) -> None:
        self._waits[wait.task_index, wait.model] = wait
        event = execution_pb2.LlmCallWaiting(model=wait.model, reason=wait.reason, message=wait.message)
        event.retry_time.FromDatetime(wait.retry_at)
        event.give_up_time.FromDatetime(wait.give_up_at)
        waits = self._longest_first()
        self._recorder.add(journal.task, event, lambda write: write.keep_model_waits(waits), flush_soon=True)

    def _forget(self, key: Key) -> None:
        if self._waits.pop(key, None) is not None:
            waits = self._longest_first()
            self._recorder.also_store(lambda write: write.keep_model_waits(waits))

    def _longest_first(self) -> list[ModelWait]:
        return sorted(self._waits.values(), key=lambda wait: wait.since)

    async def _pause(self, wait: ModelWait, deadline: datetime | None) -> None:
        seconds = (wait.retry_at - self._clock()).total_seconds()
        if seconds <= 0:
            return
        long = (wait.retry_at - wait.since).total_seconds() > self._patience.slot
        asleep = _Asleep(wait, may_rest=long and (deadline is None or wait.retry_at < deadline))
        self._asleep.append(asleep)
        try:
            with self._activity.wait(wait.task_index):
                await self._sleep(seconds)
        finally:
            self._asleep.remove(asleep)

    def _rest_if_nothing_else(self) -> None:
        if self._asleep and all(asleep.may_rest for asleep in self._asleep) and self._activity.rests:
            self._rest([asleep.wait for asleep in self._asleep])


def _out_of_time(model: str, error: CoxswainError) -> FailedPrecondition:
    message = f'the agent ran past its max_execution_time while it waited for the model "{model}": {error.message}'
    return FailedPrecondition(message, reason="TASK_FAILED")


def _is_limit(error: CoxswainError) -> bool:
    """Return whether a limit of the group on model calls will soon have room."""
    wait = error.retry_after
    return error.reason in _LIMIT_REASONS and wait is not None and wait <= _LONGEST_LIMIT_WAIT


def _is_providers_bad_day(error: CoxswainError) -> bool:
    """Return whether the provider behind a model failed in a way that passes."""
    if isinstance(error, ResourceExhausted):
        return error.reason == "UPSTREAM_RATE_LIMITED" and error.retry_after is not None
    return isinstance(error, Unavailable | DeadlineExceeded) and error.reason in _OUTAGE_REASONS

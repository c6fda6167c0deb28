"""Fires schedules."""

import asyncio
import random
from dataclasses import replace
from datetime import datetime

import structlog
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection

from coxswain.orchestrator.v1.execution_pb2 import ScheduleStartedNothing
from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.counts import from_the_start
from services.common.db.database import Database
from services.common.errors import (
    Aborted,
    AlreadyExists,
    CoxswainError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
)
from services.orchestrator.cron import BadCron, BadTimeZone, next_fire_time
from services.orchestrator.domain.execution import Execution, ExecutionError
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.schedule import Schedule
from services.orchestrator.events import error_to_proto, new_event
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.group_events import GroupEventRepository
from services.orchestrator.repositories.schedules import ScheduleRepository, read_next_schedules
from services.orchestrator.usecases.execution_starter import ExecutionStarter
from services.orchestrator.usecases.hinted_loop import Pending
from services.orchestrator.usecases.ports import Grants

logger = structlog.get_logger(__name__)

FIRED = from_the_start(
    Counter(
        "coxswain_schedules_fired_total",
        "Times schedules have fired in this process, by what came of it.",
        ("outcome",),
    ),
    ("started", "failed", "postponed"),
)
_READ_AT_ONCE = 200
_FIRED_AT_ONCE = 4
_LONGEST_START_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 60.0

# Trying again would change nothing of these: the time is over, and the next one may find something else. All others are
# faults of the installation, for which no run is given up.
_REFUSALS = (NotFound, InvalidArgument, FailedPrecondition, AlreadyExists)
_REVOKED = "DELEGATION_REVOKED"


class Scheduler:
    """Starts the executions of schedules that are due.

    Replicas may do it at once, each in an order of its own. The execution and the time after are stored in one
    transaction, which only the first of them can commit: each time fires once, even if a replica dies in between.
    """

    def __init__(
        self, database: Database, starter: ExecutionStarter, grants: Grants, bus: HintBus, interval: float
    ) -> None:
        """`interval`, between two calls of `once`, is in seconds."""
        self._database = database
        self._bus = bus
        self._starter = starter
        self._grants = grants
        self._backoff = Backoff(interval, _LONGEST_PAUSE_SECONDS)
        self._slots = asyncio.Semaphore(_FIRED_AT_ONCE)
        self._postponed: dict[str, tuple[int, float]] = {}
        """Schedules to try again: the attempts so far, and until when to wait by the loop's clock."""

    async def once(self) -> Pending:
        """Fire what is due now, except for what was postponed and has to wait; return when more is due."""
        due, following = await self._due(utc_now())
        self._postponed = {id_: wait for id_, wait in self._postponed.items() if id_ in due}
        now = asyncio.get_running_loop().time()
        ready = [schedule_id for schedule_id in due if self._postponed.get(schedule_id, (0, now))[1] <= now]
        random.shuffle(ready)
        await asyncio.gather(*map(self._fire, ready))
        if ready:
            # What was fired has a new time, and what was postponed now has to wait.
            return Pending(seconds=0.0)
        pauses = [until - now for _, until in self._postponed.values()]
        if following is not None:
            pauses.append((following - utc_now()).total_seconds())
        return Pending(seconds=min(pauses, default=None))

    async def _due(self, now: datetime) -> tuple[set[str], datetime | None]:
        """Return the schedules that have to fire, and when the first of the others has to."""
        found: set[str] = set()
        after: tuple[datetime, str] | None = None
        while True:
            page = await read_next_schedules(self._database, after, _READ_AT_ONCE)
            for at, schedule_id in page:
                if at > now:
                    return found, at
                found.add(schedule_id)
            if len(page) < _READ_AT_ONCE:
                return found, None
            after = page[-1]

    async def _fire(self, schedule_id: str) -> None:
        """Fire one schedule, if it is still due; its failures do not affect the others."""
        async with self._slots:
            try:
                now = utc_now()
                async with self._database.read() as connection:
                    schedule = await ScheduleRepository(connection).find_due(schedule_id, now)
                if schedule is not None:
                    await self._fire_at(schedule, now)
            except Exception:
                self._pause(schedule_id)
                logger.exception("schedule_failed", schedule_id=schedule_id)

    async def _fire_at(self, schedule: Schedule, now: datetime) -> None:
        try:
            async with asyncio.timeout(_LONGEST_START_SECONDS):
                execution = await self._start(schedule, now)
        except Aborted as error:
            logger.debug("schedule_not_fired", schedule_id=schedule.id, reason=error.reason)
        except TimeoutError:
            await self._postpone(schedule, DeadlineExceeded(f"starting took longer than {_LONGEST_START_SECONDS:g} s"))
        except CoxswainError as error:
            if not isinstance(error, _REFUSALS) and error.reason != _REVOKED:
                return await self._postpone(schedule, error)
            if await self._note_nothing(schedule, replace(_fired(schedule, now), last_error=_cause(schedule, error))):
                FIRED.labels("failed").inc()
                logger.warning("schedule_started_nothing", schedule_id=schedule.id, reason=error.reason)
        except BadTimeZone as error:
            await self._postpone(schedule, Internal(f"the time zone {schedule.time_zone} {error} on this machine"))
        except Exception:
            logger.exception("schedule_failed", schedule_id=schedule.id)
            await self._postpone(schedule, Internal("an internal error; the log of the orchestrator has it"))
        else:
            FIRED.labels("started").inc()
            logger.info(
                "schedule_fired",
                schedule_id=schedule.id,
                due=None if schedule.next_fire_at is None else schedule.next_fire_at.isoformat(),
                execution_id=execution.id,
            )

    async def _start(self, schedule: Schedule, now: datetime) -> Execution:
        fired = _fired(schedule, now)

        async def advance(connection: AsyncConnection, execution: Execution) -> None:
            if not await ScheduleRepository(connection).fired(schedule, replace(fired, last_execution_id=execution.id)):
                raise Aborted("another process was faster, or the schedule was changed", reason="REVISION_MISMATCH")

        async with self._grants.acting(schedule.grant_id, schedule.delegate_id) as limits:
            return await self._starter.start(
                schedule, schedule.keyed_start, limits=limits, schedule_id=schedule.id, also_store=advance
            )

    async def _postpone(self, schedule: Schedule, error: CoxswainError) -> None:
        """Leave a schedule due, and say why."""
        FIRED.labels("postponed").inc()
        pause = self._pause(schedule.id)
        logger.warning("schedule_postponed", schedule_id=schedule.id, reason=error.reason, seconds=pause)
        cause = ExecutionError(error.reason, f"{error.message}; it is tried again")
        if schedule.last_error != cause:
            await self._note(schedule, replace(schedule, last_error=cause))

    def _pause(self, schedule_id: str) -> float:
        attempts = self._postponed.get(schedule_id, (0, 0.0))[0] + 1
        pause = self._backoff.pause(attempts)
        self._postponed[schedule_id] = (attempts, asyncio.get_running_loop().time() + pause)
        return pause

    async def _note_nothing(self, before: Schedule, after: Schedule) -> bool:
        """Store that a schedule has fired and started nothing, and the event that says so.

        Return whether that was done: another process may have been faster, or the schedule was changed.
        """
        assert after.last_error is not None
        body = ScheduleStartedNothing(
            schedule_id=before.id, schedule_name=before.name, error=error_to_proto(after.last_error)
        )
        if before.next_fire_at is not None:
            body.due_time.FromDatetime(before.next_fire_at)
        async with self._database.write() as connection:
            if not await ScheduleRepository(connection).fired(before, after):
                return False
            start = before.start
            # The crew that has the name now: filters choose events by its id.
            crew_id = start.crew_id or await CrewRepository(connection).find_id(before.group_id, start.crew)
            await GroupEventRepository(connection).append_of_schedule(before, crew_id, new_event(body))
        self._bus.publish(Hint(HintKind.EVENTS_STORED, group_id=before.group_id))
        return True

    async def _note(self, before: Schedule, after: Schedule) -> None:
        async with self._database.write() as connection:
            await ScheduleRepository(connection).fired(before, after)


def _fired(schedule: Schedule, now: datetime) -> Schedule:
    """Return a schedule as it is when it has fired. Raises BadTimeZone: this process does not know its zone."""
    try:
        following = next_fire_time(schedule.cron, schedule.time_zone, now)
    except BadCron:
        # It was valid when it was stored: the days it names are over.
        following = None
    return replace(schedule, last_fire_at=schedule.next_fire_at, next_fire_at=following, last_error=None)


def _cause(schedule: Schedule, error: CoxswainError) -> ExecutionError:
    if error.reason == _REVOKED:
        return ExecutionError(
            error.reason,
            f"it acts for {schedule.subject}, who is not a member of the group any more, or was one only by a token "
            "that was sent too long ago; save the schedule again to let it act for you",
        )
    return ExecutionError(error.reason, error.message)

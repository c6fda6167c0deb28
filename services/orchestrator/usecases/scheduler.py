"""Fires schedules."""

import asyncio
import random
from dataclasses import replace
from datetime import datetime

import structlog
from prometheus_client import Counter

from services.common.clock import utc_now
from services.common.errors import (
    Aborted,
    CoxswainError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
)
from services.common.grpc.call import acting_as
from services.orchestrator.cron import BadCron, BadTimeZone, next_fire_time, time_zones
from services.orchestrator.domain.execution import Execution, ExecutionError
from services.orchestrator.domain.schedule import Schedule
from services.orchestrator.repositories.protocols import Store, UnitOfWork
from services.orchestrator.usecases.ports import Grants
from services.orchestrator.usecases.starts import ExecutionStarts, RequestId

logger = structlog.get_logger(__name__)

FIRED = Counter(
    "coxswain_schedules_fired", "Times schedules have fired in this process, by what came of it.", ("outcome",)
)
_READ_AT_ONCE = 1000
_FIRED_AT_ONCE = 4
_PATIENCE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 60.0

# Trying again would change nothing of these: the time is over, and the next one may find something else. All others are
# faults of the installation, for which nobody's time is given up.
_REFUSALS = (NotFound, InvalidArgument, FailedPrecondition)
_REVOKED = "DELEGATION_REVOKED"


class Scheduler:
    """Starts the executions of schedules that are due.

    Replicas may do it at once, each in an order of its own. The execution and the time after are stored in one
    transaction, which only the first of them can commit: each time is fired for once, whoever dies in between.
    """

    def __init__(self, store: Store, starts: ExecutionStarts, grants: Grants, interval: float) -> None:
        """`interval` is in seconds."""
        self._store = store
        self._starts = starts
        self._grants = grants
        self._interval = interval
        self._slots = asyncio.Semaphore(_FIRED_AT_ONCE)
        self._pauses: dict[str, tuple[float, float]] = {}
        """What was put off: its last pause in seconds, and until when by the loop's clock."""

    async def run(self) -> None:
        """Fire what is due again and again until cancelled."""
        # They are read from files.
        await asyncio.to_thread(time_zones)
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.once()
            except CoxswainError as error:
                logger.warning("schedules_put_off", reason=error.reason)
            except Exception:
                logger.exception("schedules_failed")

    async def once(self) -> None:
        """Fire what is due now, but for what was put off and has to wait."""
        due = await self._due(utc_now())
        self._pauses = {schedule_id: pause for schedule_id, pause in self._pauses.items() if schedule_id in due}
        now = asyncio.get_running_loop().time()
        ready = [schedule_id for schedule_id in due if self._pauses.get(schedule_id, (0.0, now))[1] <= now]
        random.shuffle(ready)
        await asyncio.gather(*map(self._fire, ready))

    async def _due(self, now: datetime) -> set[str]:
        found: set[str] = set()
        after: tuple[datetime, str] | None = None
        while True:
            async with self._store.read() as work:
                page = await work.schedules.due(now, after, _READ_AT_ONCE)
            found.update(schedule_id for _, schedule_id in page)
            if len(page) < _READ_AT_ONCE:
                return found
            after = page[-1]

    async def _fire(self, schedule_id: str) -> None:
        """Fire one schedule, if it still is due; whatever happens is its own affair."""
        async with self._slots:
            try:
                now = utc_now()
                async with self._store.read() as work:
                    schedule = await work.schedules.find_due(schedule_id, now)
                if schedule is not None:
                    await self._fire_at(schedule, now)
            except Exception:
                self._pause(schedule_id)
                logger.exception("schedule_failed", schedule_id=schedule_id)

    async def _fire_at(self, schedule: Schedule, now: datetime) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                execution = await self._start(schedule, now)
        except Aborted as error:
            logger.debug("schedule_not_fired", schedule_id=schedule.id, reason=error.reason)
        except TimeoutError:
            await self._put_off(schedule, DeadlineExceeded(f"starting took longer than {_PATIENCE_SECONDS:g} s"))
        except CoxswainError as error:
            if not isinstance(error, _REFUSALS) and error.reason != _REVOKED:
                return await self._put_off(schedule, error)
            FIRED.labels("failed").inc()
            logger.warning("schedule_started_nothing", schedule_id=schedule.id, reason=error.reason)
            await self._note(schedule, replace(_fired(schedule, now), last_error=_told(schedule, error)))
        except BadTimeZone as error:
            await self._put_off(schedule, Internal(f"the time zone {schedule.time_zone} {error} here"))
        except Exception:
            logger.exception("schedule_failed", schedule_id=schedule.id)
            await self._put_off(schedule, Internal("an internal error; the log of the orchestrator has it"))
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

        async def advance(work: UnitOfWork, execution: Execution) -> None:
            if not await work.schedules.fired(schedule, replace(fired, last_execution_id=execution.id)):
                raise Aborted("another process was faster, or the schedule was changed", reason="REVISION_MISMATCH")

        with acting_as(await self._grants.issue(schedule.grant_id, schedule.delegate_id)):
            return await self._starts.start(
                schedule, schedule.start, RequestId("", ""), schedule_id=schedule.id, along=advance
            )

    async def _put_off(self, schedule: Schedule, error: CoxswainError) -> None:
        """Leave a schedule due, and say why."""
        FIRED.labels("put_off").inc()
        pause = self._pause(schedule.id)
        logger.warning("schedule_put_off", schedule_id=schedule.id, reason=error.reason, seconds=pause)
        told = ExecutionError(error.reason, f"{error.message}; it is tried again")
        if schedule.last_error != told:
            await self._note(schedule, replace(schedule, last_error=told))

    def _pause(self, schedule_id: str) -> float:
        last, _ = self._pauses.get(schedule_id, (self._interval / 2, 0.0))
        pause = min(2 * last, _LONGEST_PAUSE_SECONDS)
        self._pauses[schedule_id] = (pause, asyncio.get_running_loop().time() + pause)
        return pause

    async def _note(self, before: Schedule, after: Schedule) -> None:
        async with self._store.write() as work:
            await work.schedules.fired(before, after)


def _fired(schedule: Schedule, now: datetime) -> Schedule:
    """Return a schedule as it is when it has fired. Raises BadTimeZone: this process does not know its zone."""
    try:
        following = next_fire_time(schedule.cron, schedule.time_zone, now)
    except BadCron:
        # It was good when it was stored: the days it names are over.
        following = None
    return replace(schedule, last_fire_at=schedule.next_fire_at, next_fire_at=following, last_error=None)


def _told(schedule: Schedule, error: CoxswainError) -> ExecutionError:
    if error.reason == _REVOKED:
        return ExecutionError(
            error.reason,
            f"it acts for {schedule.subject}, who is no member of the group any more, or was one only by a token that "
            "was sent too long ago; whoever saves it again lets it act for them",
        )
    return ExecutionError(error.reason, error.message)

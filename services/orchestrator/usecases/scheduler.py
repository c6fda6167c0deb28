"""Fires schedules."""

import asyncio
from dataclasses import replace
from datetime import datetime

import structlog
from prometheus_client import Counter

from services.common.clock import utc_now
from services.common.errors import Aborted, CoxswainError, DeadlineExceeded, ResourceExhausted, Unavailable
from services.common.grpc.call import acting_as
from services.orchestrator.cron import BadCron, BadTimeZone, next_fire_time
from services.orchestrator.domain import Execution, ExecutionError, Schedule
from services.orchestrator.repositories.protocols import Store, UnitOfWork
from services.orchestrator.usecases.ports import Grants
from services.orchestrator.usecases.starts import ExecutionStarts, RequestId

logger = structlog.get_logger(__name__)

FIRED = Counter(
    "coxswain_schedules_fired", "Times schedules have fired in this process, by what came of it.", ("outcome",)
)
_BATCH = 100


class Scheduler:
    """Starts the executions of schedules that are due.

    Replicas may do it at once. The execution and the time after are stored in one transaction, which only the first of
    them can commit: each time is fired for once, whoever dies in between.
    """

    def __init__(self, store: Store, starts: ExecutionStarts, grants: Grants, interval: float) -> None:
        """`interval` is in seconds."""
        self._store = store
        self._starts = starts
        self._grants = grants
        self._interval = interval

    async def run(self) -> None:
        """Fire what is due again and again until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.once()
            except CoxswainError as error:
                logger.warning("schedules_put_off", reason=error.reason)
            except Exception:
                logger.exception("schedules_failed")

    async def once(self) -> None:
        """Fire what is due now."""
        now = utc_now()
        async with self._store.read() as work:
            due = await work.schedules.due(now, _BATCH)
        for schedule in due:
            await self._fire(schedule, now)

    async def _fire(self, schedule: Schedule, now: datetime) -> None:
        fired = replace(
            schedule, last_fire_at=schedule.next_fire_at, next_fire_at=_following(schedule, now), last_error=None
        )

        async def advance(work: UnitOfWork, execution: Execution) -> None:
            if not await work.schedules.fired(schedule, replace(fired, last_execution_id=execution.id)):
                raise Aborted("another process was faster, or the schedule was changed", reason="REVISION_MISMATCH")

        try:
            token = await self._grants.issue(schedule.grant_id, schedule.delegate_id)
            with acting_as(token):
                execution = await self._starts.start(
                    schedule, schedule.start, RequestId("", ""), schedule_id=schedule.id, along=advance
                )
        except Aborted as error:
            logger.debug("schedule_not_fired", schedule_id=schedule.id, reason=error.reason)
        except (Unavailable, DeadlineExceeded, ResourceExhausted) as error:
            # It stays due.
            logger.warning("schedule_put_off", schedule_id=schedule.id, reason=error.reason)
        except CoxswainError as error:
            await self._note_failure(schedule, fired, ExecutionError(error.reason, error.message))
        except Exception:
            logger.exception("schedule_failed", schedule_id=schedule.id)
            told = "an internal error; the log of the orchestrator has it"
            await self._note_failure(schedule, fired, ExecutionError("INTERNAL", told))
        else:
            FIRED.labels("started").inc()
            logger.info("schedule_fired", schedule_id=schedule.id, execution_id=execution.id)

    async def _note_failure(self, schedule: Schedule, fired: Schedule, error: ExecutionError) -> None:
        async with self._store.write() as work:
            noted = await work.schedules.fired(schedule, replace(fired, last_error=error))
        if noted:
            FIRED.labels("failed").inc()
            logger.warning("schedule_started_nothing", schedule_id=schedule.id, reason=error.reason)


def _following(schedule: Schedule, now: datetime) -> datetime | None:
    try:
        return next_fire_time(schedule.cron, schedule.time_zone, now)
    except (BadCron, BadTimeZone) as error:
        # It was good when it was stored: the days it names are over, or its zone has left the database of zones.
        logger.warning("schedule_has_no_next_time", schedule_id=schedule.id, why=str(error))
        return None

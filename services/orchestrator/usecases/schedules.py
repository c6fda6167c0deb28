"""Use cases of ScheduleService."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

import structlog
from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.db.row_quota import check_row_quota
from services.common.errors import (
    Aborted,
    AlreadyExists,
    CoxswainError,
    FieldViolation,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.common.resource_key import ResourceKey
from services.orchestrator import tables
from services.orchestrator.cron import BadCron, BadTimeZone, next_fire_time, zone_of
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.execution import Execution, ExecutionIdentity, OnCredentialExpiry, Start
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.schedule import Plan, Schedule, keyed
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.schedules import ScheduleRepository
from services.orchestrator.usecases.execution_starter import ExecutionStarter
from services.orchestrator.usecases.ports import Grant, Grants

logger = structlog.get_logger(__name__)

_SCHEDULES = Pager("schedules")


class Schedules:
    """Keeps the schedules of groups; `scheduler.Scheduler` fires them.

    A schedule acts as the group, under a grant of the subject that created or last changed it. Each change creates
    a grant under a new id and revokes the one before: what was read before a change can no longer act after it.
    """

    def __init__(self, database: Database, starter: ExecutionStarter, grants: Grants, bus: HintBus) -> None:
        self._database = database
        self._starter = starter
        self._grants = grants
        self._bus = bus

    async def create(
        self, principal: Principal, plan: Plan, broken_rules: Sequence[FieldViolation], request: RequestKey | None
    ) -> Schedule:
        """Store a schedule, which fires from now on; a repeated `request` returns the first one's.

        `broken_rules` are those of its message.

        Raises:
            NotFound: the group does not have this crew.
            InvalidArgument: the times are not valid, or the crew could not be started; one violation for each fault.
            AlreadyExists: the group has a schedule of that name, or the request_id was used with another body.
            ResourceExhausted: QUOTA_EXCEEDED, the group has as many schedules as it may.
        """
        if request is not None:
            async with self._database.read() as connection:
                first_id = await RequestRepository(connection, tables.requests).find(request)
                if first_id is not None:
                    return await _first(connection, principal, first_id)
        now = utc_now()
        next_fire_at = await self._checked(principal, plan, broken_rules, now)
        delegate_id, grant = await self._delegate()
        schedule = Schedule(
            id=new_id(),
            group_id=principal.group_id,
            subject=principal.subject,
            name=plan.name,
            cron=plan.cron,
            time_zone=plan.time_zone,
            start=_as_group(plan.start),
            paused=plan.paused,
            delegate_id=delegate_id,
            grant_id=grant.id,
            revision=1,
            next_fire_at=next_fire_at,
            created_at=now,
            updated_at=now,
        )
        stored = schedule
        try:
            async with self._database.write() as connection:
                first_id = schedule.id
                if request is not None:
                    first_id = await RequestRepository(connection, tables.requests).claim(request, schedule.id)
                if first_id == schedule.id:
                    await check_row_quota(
                        connection,
                        "max_schedules",
                        principal.limits.max_schedules,
                        tables.schedules.c.group_id,
                        schedule.group_id,
                        tables.schedules.c.deleted_at.is_(None),
                        what="schedules",
                    )
                    await ScheduleRepository(connection).insert(schedule)
                else:
                    stored = await _first(connection, principal, first_id)
        except (AlreadyExists, NotFound, ResourceExhausted):
            await self._revoke(delegate_id)
            raise
        if stored is not schedule:
            await self._revoke(delegate_id)
        else:
            self._bus.publish(Hint(HintKind.WORK_STORED, schedule.id))
        return stored

    async def get(self, principal: Principal, key: ResourceKey) -> Schedule:
        """Return a schedule. Raises NotFound."""
        async with self._database.read() as connection:
            schedule = await ScheduleRepository(connection).get(principal.group_id, key)
        if schedule is None:
            raise NotFound.by_key("schedule", key)
        return schedule

    async def page(self, principal: Principal, size: int, token: str) -> Page[Schedule]:
        """Return a page of the group's schedules, by name. Raises InvalidArgument: INVALID_PAGE_TOKEN."""
        async with self._database.read() as connection:
            schedules = ScheduleRepository(connection)
            return await _SCHEDULES.page(
                size,
                token,
                {"group": principal.group_id},
                lambda after, limit: schedules.page(principal.group_id, after[0] if after else None, limit),
                lambda schedule: [schedule.name],
                lambda schedule: len(to_json(to_document(schedule.start))),
            )

    async def update(
        self,
        principal: Principal,
        key: ResourceKey,
        change: Callable[[Schedule], tuple[Plan, list[FieldViolation]]],
        expected_revision: int = 0,
    ) -> Schedule:
        """Change a schedule; it acts for the caller from now on.

        `change` returns what the schedule shall be for what it is, and the rules of its message that it breaks.

        Raises:
            NotFound: the group does not have this schedule, or not its crew.
            InvalidArgument: the times are not valid, or the crew could not be started; one violation for each fault.
            Aborted: the schedule is not at `expected_revision` (0: any).
            AlreadyExists: the group has another schedule of that name.
        """
        while True:
            present = await self.get(principal, key)
            updated = await self._update(principal, present, *change(present), expected_revision)
            if updated is not None:
                return updated

    async def _update(
        self,
        principal: Principal,
        present: Schedule,
        plan: Plan,
        broken_rules: Sequence[FieldViolation],
        expected_revision: int,
    ) -> Schedule | None:
        """Store what a schedule shall be; None: it was changed since it was read."""
        now = utc_now()
        next_fire_at = await self._checked(principal, plan, broken_rules, now)
        delegate_id, grant = await self._delegate()
        try:
            async with self._database.write() as connection:
                schedules = ScheduleRepository(connection)
                before = await schedules.lock(principal.group_id, ResourceKey(present.id))
                if before is None:
                    raise NotFound.of("schedule", present.id)
                wanted = replace(
                    before,
                    subject=principal.subject,
                    name=plan.name,
                    cron=plan.cron,
                    time_zone=plan.time_zone,
                    start=_as_group(plan.start),
                    paused=plan.paused,
                )
                # When nothing differs, the call is repeated after its answer was lost, or renews the grant.
                if expected_revision not in {0, before.revision} and wanted != before:
                    raise Aborted.revision("schedule", before.id, expected_revision, before.revision)
                same_times = (before.cron, before.time_zone, before.paused) == (plan.cron, plan.time_zone, plan.paused)
                after = replace(
                    wanted,
                    delegate_id=delegate_id,
                    grant_id=grant.id,
                    revision=before.revision + 1,
                    # A change at the very moment it is due must not cost that time.
                    next_fire_at=(before.next_fire_at if same_times else None) or next_fire_at,
                    updated_at=now,
                    last_error=before.last_error if wanted == before else None,
                )
                outdated = before.revision != present.revision
                if not outdated:
                    await schedules.save(after)
        except (Aborted, AlreadyExists, NotFound):
            # Nothing was stored. Of other failures that is not sure: a commit may have outlived its connection.
            await self._revoke(delegate_id)
            raise
        if not outdated:
            self._bus.publish(Hint(HintKind.WORK_STORED, after.id))
        await self._revoke(delegate_id if outdated else before.delegate_id)
        return None if outdated else after

    async def fire(self, principal: Principal, key: ResourceKey, request: RequestKey | None) -> Execution:
        """Start what a schedule starts, now. See `ExecutionStarter.start` for what else it raises.

        Raises:
            NotFound: the group does not have this schedule, or not its crew.
            PermissionDenied: DELEGATION_REVOKED, nobody may act for the schedule any more.
        """
        schedule = await self.get(principal, key)

        async def note(connection: AsyncConnection, execution: Execution) -> None:
            await ScheduleRepository(connection).fired_by_hand(schedule.id, execution.id)

        async with self._grants.acting(schedule.grant_id, schedule.delegate_id) as limits:
            return await self._starter.start(
                schedule, schedule.keyed_start, request, limits=limits, schedule_id=schedule.id, also_store=note
            )

    async def delete(self, principal: Principal, key: ResourceKey) -> None:
        """Take a schedule out of listings; executions it started continue. Deleting it again changes nothing.

        Raises:
            NotFound: the group never had this schedule.
        """
        async with self._database.write() as connection:
            schedules = ScheduleRepository(connection)
            schedule = await schedules.lock(principal.group_id, key)
            if schedule is not None:
                await schedules.delete(schedule.id, utc_now())
            else:
                schedule = await schedules.get_deleted(principal.group_id, key)
                if schedule is None:
                    raise NotFound.by_key("schedule", key)
        # Also of one that was deleted before: its grant may not have been revoked then.
        await self._grants.revoke(schedule.delegate_id)

    async def _checked(
        self, principal: Principal, plan: Plan, broken_rules: Sequence[FieldViolation], now: datetime
    ) -> datetime | None:
        """Return when a plan fires next, None while it is paused; raise for what keeps it from ever doing so."""
        next_fire_at, faults = _next_time(plan, now, broken_rules)
        found = [*broken_rules, *faults]
        if plan.start.identity is ExecutionIdentity.USER:
            found.append(
                FieldViolation(
                    "schedule.start.identity",
                    "cannot be USER: no user is present when the schedule fires; leave it out or choose GROUP, and "
                    "make sure that the group has the credentials the crew needs",
                )
            )
        if not plan.paused:
            await self._starter.startable(principal, keyed(plan.start, "new"), "schedule.start.", found)
            return next_fire_at
        # Its start is checked when it is resumed. To pause one that cannot start any more has to be possible.
        if found:
            raise InvalidArgument.fields(found)
        return None

    async def _delegate(self) -> tuple[str, Grant]:
        delegate_id = new_id()
        return delegate_id, await self._grants.create(delegate_id, ExecutionIdentity.GROUP, OnCredentialExpiry.PARK)

    async def _revoke(self, delegate_id: str) -> None:
        """Revoke a grant that no schedule refers to; if that fails, nobody can use it."""
        try:
            await self._grants.revoke(delegate_id)
        except CoxswainError as error:
            logger.warning("grant_not_revoked", delegate_id=delegate_id, reason=error.reason)


def _next_time(
    plan: Plan, now: datetime, broken_rules: Sequence[FieldViolation]
) -> tuple[datetime | None, list[FieldViolation]]:
    """Return when a plan fires next, and what is wrong with its times.

    Fields that break rules are not read: they may be too long.
    """
    broken = {fault.field for fault in broken_rules}
    faults: list[FieldViolation] = []
    zone = "" if "schedule.time_zone" in broken else plan.time_zone
    try:
        zone_of(zone)
    except BadTimeZone as error:
        faults.append(FieldViolation("schedule.time_zone", str(error)))
        zone = ""
    if "schedule.cron" in broken:
        return None, faults
    try:
        return next_fire_time(plan.cron, zone, now), faults
    except BadCron as error:
        return None, [FieldViolation("schedule.cron", str(error)), *faults]


def _as_group(start: Start) -> Start:
    # As the group it uses no token that could expire.
    return replace(start, identity=ExecutionIdentity.GROUP, on_credential_expiry=OnCredentialExpiry.PARK)


async def _first(connection: AsyncConnection, principal: Principal, schedule_id: str) -> Schedule:
    schedules, key = ScheduleRepository(connection), ResourceKey(schedule_id)
    schedule = await schedules.get(principal.group_id, key) or await schedules.get_deleted(principal.group_id, key)
    if schedule is None:
        raise NotFound.of("schedule", schedule_id)
    return schedule

"""Use cases of ScheduleService."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from services.common.clock import utc_now
from services.common.errors import Aborted, AlreadyExists, CoxswainError, InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import decode_page_token, encode_page_token, page_size
from services.orchestrator.cron import BadCron, BadTimeZone, next_fire_time
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.execution import ExecutionIdentity, OnCredentialExpiry, Start
from services.orchestrator.domain.schedule import Schedule
from services.orchestrator.repositories.protocols import KnownRequest, RequestKey, Store, UnitOfWork
from services.orchestrator.usecases.pages import read_fitting
from services.orchestrator.usecases.ports import Grant, Grants
from services.orchestrator.usecases.starts import ExecutionStarts, RequestId

logger = structlog.get_logger(__name__)

_LISTING = "schedules"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a caller says of a schedule."""

    name: str
    cron: str
    time_zone: str
    start: Start
    paused: bool


class ScheduleUseCases:
    """Keeps the schedules of groups; `scheduler.Scheduler` fires them.

    A schedule acts as the group, under a grant of whoever created or last changed it: each change opens another one
    under an id of its own and closes the one before, so that what was read before a change can no longer act after it.
    """

    def __init__(self, store: Store, starts: ExecutionStarts, grants: Grants) -> None:
        self._store = store
        self._starts = starts
        self._grants = grants

    async def create(self, principal: Principal, plan: Plan, request: RequestId) -> Schedule:
        """Store a schedule, which fires from now on.

        Raises:
            NotFound: the group has no such crew.
            InvalidArgument: there is no such time, or the crew could not be started; one violation for each fault.
            AlreadyExists: the group has a schedule of that name, or the request_id was used with another body.
        """
        key = RequestKey(principal.group_id, principal.subject, "CreateSchedule", request.value)
        if request.value:
            async with self._store.read() as work:
                earlier = await work.requests.find(key)
                if earlier is not None:
                    return await _repeated(work, key, earlier, request)
        now = utc_now()
        next_fire_at = await self._checked(principal, plan, now)
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
        repeated = None
        try:
            async with self._store.write() as work:
                made = KnownRequest(request.body_hash, schedule.id)
                earlier = await work.requests.claim(key, made, now) if request.value else None
                if earlier is not None:
                    repeated = await _repeated(work, key, earlier, request)
                elif not await work.schedules.insert(schedule):
                    raise _name_taken(plan.name)
        except (AlreadyExists, NotFound):
            await self._close(delegate_id)
            raise
        if repeated is not None:
            await self._close(delegate_id)
            return repeated
        return schedule

    async def get(self, principal: Principal, schedule_id: str) -> Schedule:
        """Return a schedule. Raises NotFound."""
        async with self._store.read() as work:
            schedule = await work.schedules.get(principal.group_id, schedule_id)
        if schedule is None:
            raise NotFound.of("schedule", schedule_id)
        return schedule

    async def page(self, principal: Principal, requested_size: int, token: str) -> tuple[Sequence[Schedule], str]:
        """Return a page of the group's schedules, by name, and the token of the next page."""
        filters = {"group": principal.group_id}
        key = decode_page_token(token, _LISTING, filters)
        after_name = key[0] if key and isinstance(key[0], str) else None
        size = page_size(requested_size)
        async with self._store.read() as work:
            page, more = await read_fitting(
                lambda last, limit: work.schedules.page(principal.group_id, last.name if last else after_name, limit),
                size,
                lambda schedule: to_document(schedule.start),
            )
        return page, encode_page_token(_LISTING, filters, [page[-1].name]) if more else ""

    async def update(self, principal: Principal, schedule_id: str, plan: Plan, expected_revision: int = 0) -> Schedule:
        """Replace a schedule; it acts for the caller from now on.

        Raises:
            NotFound: the group has no such schedule, or no such crew.
            InvalidArgument: there is no such time, or the crew could not be started; one violation for each fault.
            Aborted: the schedule is not at `expected_revision` (0: any).
            AlreadyExists: the group has another schedule of that name.
        """
        if not schedule_id:
            raise InvalidArgument.field("schedule.id", "names the schedule to change; ListSchedules tells it")
        await self.get(principal, schedule_id)
        now = utc_now()
        next_fire_at = await self._checked(principal, plan, now)
        delegate_id, grant = await self._delegate()
        try:
            async with self._store.write() as work:
                before = await work.schedules.lock(principal.group_id, schedule_id)
                if before is None:
                    raise NotFound.of("schedule", schedule_id)
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
                    raise Aborted.revision("schedule", schedule_id, expected_revision, before.revision)
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
                if not await work.schedules.save(after):
                    raise _name_taken(plan.name)
        except (Aborted, AlreadyExists, NotFound):
            # Nothing was stored. Of other failures that is not sure: a commit may have outlived its connection.
            await self._close(delegate_id)
            raise
        await self._close(before.delegate_id)
        return after

    async def delete(self, principal: Principal, schedule_id: str) -> None:
        """Take a schedule out of listings; executions it started go on, and one that is deleted already stays so.

        Raises:
            NotFound: the group never had such a schedule.
        """
        async with self._store.write() as work:
            schedule = await work.schedules.lock(principal.group_id, schedule_id)
            if schedule is not None:
                await work.schedules.delete(schedule_id, utc_now())
            else:
                schedule = await work.schedules.get(principal.group_id, schedule_id, deleted=True)
                if schedule is None:
                    raise NotFound.of("schedule", schedule_id)
        # Of one that was deleted before as well: its grant may have been left open then.
        await self._grants.close(schedule.delegate_id)

    async def _checked(self, principal: Principal, plan: Plan, now: datetime) -> datetime | None:
        """Return when a plan fires next, None while it is paused; raise for what keeps it from ever doing so."""
        if plan.start.identity is ExecutionIdentity.USER:
            raise InvalidArgument.field(
                "schedule.start.identity",
                "cannot be USER: when the schedule fires, no user is there to lend it a token; leave it out or choose "
                "GROUP, and see that the group has the credentials the crew needs",
            )
        try:
            next_fire_at = next_fire_time(plan.cron, plan.time_zone, now)
        except BadCron as error:
            raise InvalidArgument.field("schedule.cron", str(error)) from error
        except BadTimeZone as error:
            raise InvalidArgument.field("schedule.time_zone", str(error)) from error
        if plan.paused:
            # Whoever resumes it is told. To pause one that cannot start any more has to be possible.
            return None
        await self._starts.startable(principal, plan.start, "schedule.start.")
        return next_fire_at

    async def _delegate(self) -> tuple[str, Grant]:
        delegate_id = new_id()
        return delegate_id, await self._grants.open(delegate_id, ExecutionIdentity.GROUP, OnCredentialExpiry.PARK)

    async def _close(self, delegate_id: str) -> None:
        """Close a grant that no schedule refers to: left open, it could not be used either."""
        try:
            await self._grants.close(delegate_id)
        except CoxswainError as error:
            logger.warning("grant_not_revoked", delegate_id=delegate_id, reason=error.reason)


def _as_group(start: Start) -> Start:
    # As the group it uses no token that could expire.
    return replace(start, identity=ExecutionIdentity.GROUP, on_credential_expiry=OnCredentialExpiry.PARK)


async def _repeated(work: UnitOfWork, key: RequestKey, earlier: KnownRequest, request: RequestId) -> Schedule:
    if earlier.request_hash != request.body_hash:
        raise AlreadyExists.request_id(key.request_id)
    schedule = await work.schedules.get(key.group_id, earlier.resource_id, deleted=True)
    if schedule is None:
        raise NotFound.of("schedule", earlier.resource_id)
    return schedule


def _name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        f'the group has a schedule named "{name}"; update that one or choose another name',
        metadata={"resource": "schedule", "name": name},
    )

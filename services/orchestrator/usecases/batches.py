"""Use cases of BatchService."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from pydantic_core import to_json

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.errors import CoxswainError, FailedPrecondition, FieldViolation, InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.common.quotas import QuotaExceeded
from services.orchestrator import tables
from services.orchestrator.domain.batch import Batch, BatchProgress
from services.orchestrator.domain.execution import (
    ExecutionError,
    ExecutionIdentity,
    OnCredentialExpiry,
    OverlapPolicy,
    Start,
)
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.placeholders import required_inputs
from services.orchestrator.repositories.batches import BatchRepository
from services.orchestrator.repositories.retention import RetentionRepository
from services.orchestrator.usecases.execution_starter import ExecutionStarter
from services.orchestrator.usecases.open_executions import refuse_early
from services.orchestrator.usecases.ports import Grants

logger = structlog.get_logger(__name__)

_BATCHES = Pager("batches")
_MAX_PARALLEL = 8
# Above the default of other executions: lower runs first.
_PRIORITY = 100
_MOST_VIOLATIONS = 20
# Each execution has thousands of events, and more at once would keep other writers waiting.
_DELETED_AT_ONCE = 10

Inputs = Sequence[Mapping[str, Any]]


class Batches:
    """Keeps the batches of groups; `batch_runner.BatchRunner` makes executions of them."""

    def __init__(
        self,
        database: Database,
        starter: ExecutionStarter,
        grants: Grants,
        bus: HintBus,
        *,
        max_inputs_bytes: int,
    ) -> None:
        self._database = database
        self._starter = starter
        self._grants = grants
        self._bus = bus
        self._max_inputs_bytes = max_inputs_bytes

    async def start(
        self, principal: Principal, start: Start, inputs: Inputs, max_parallel: int, request: RequestKey | None
    ) -> BatchProgress:
        """Store a batch; a repeated `request` returns the first one's.

        Raises:
            NotFound: the group does not have this crew, or the first request's batch was deleted.
            InvalidArgument: inputs are missing, or the crew cannot run; one violation for each fault.
            AlreadyExists: the request_id was used with another body.
        """
        if request is not None:
            async with self._database.read() as connection:
                first_id = await RequestRepository(connection, tables.requests).find(request)
            if first_id is not None:
                return await self.get(principal, first_id)
        batch = await self._checked(principal, start, inputs, max_parallel)
        grant = await self._grants.create(batch.id, ExecutionIdentity.GROUP, OnCredentialExpiry.PARK)
        batch = replace(batch, grant_id=grant.id)
        first_id = batch.id
        complete = False
        try:
            async with self._database.write() as connection:
                if request is not None:
                    first_id = await RequestRepository(connection, tables.requests).claim(request, batch.id)
                if first_id == batch.id:
                    await BatchRepository(connection).insert(batch, inputs)
                complete = True
        except BaseException:
            # Once all statements are done, nobody knows: a commit may have outlived its connection.
            if not complete:
                await self._revoke(batch.id)
            raise
        if first_id != batch.id:
            await self._revoke(batch.id)
            return await self.get(principal, first_id)
        self._bus.publish(Hint(HintKind.WORK_STORED, batch.id))
        return BatchProgress(batch)

    async def get(self, principal: Principal, batch_id: str) -> BatchProgress:
        """Return a batch with its progress, its first failures and what it waits for. Raises NotFound."""
        async with self._database.read() as connection:
            repository = BatchRepository(connection)
            batch = await repository.get(principal.group_id, batch_id)
            if batch is None:
                raise NotFound.of("batch", batch_id)
            [progress] = await repository.progress(principal.group_id, [batch])
            progress = replace(progress, failures=await repository.failures(principal.group_id, batch_id))
        return replace(progress, pending_reason=await self._pending_reason(principal, progress))

    async def _pending_reason(self, principal: Principal, progress: BatchProgress) -> ExecutionError | None:
        """Return what keeps the next execution of a batch from being made."""
        if progress.batch.exhausted or progress.open >= progress.batch.max_parallel:
            return None
        try:
            await refuse_early(self._database, principal.group_id, principal.limits)
        except QuotaExceeded as error:
            return ExecutionError(error.reason, error.message)
        return None

    async def page(self, principal: Principal, size: int, token: str) -> Page[BatchProgress]:
        """Return a page of the group's batches, newest first. Raises InvalidArgument: INVALID_PAGE_TOKEN."""
        group_id = principal.group_id
        async with self._database.read() as connection:
            repository = BatchRepository(connection)
            page = await _BATCHES.page(
                size,
                token,
                {"group": group_id},
                lambda after, limit: repository.page(group_id, after[0] if after else None, limit),
                lambda batch: [batch.id],
                lambda batch: len(to_json(dict(batch.start.labels))),
            )
            return Page(await repository.progress(group_id, page.items), page.next_page_token)

    async def cancel(self, principal: Principal, batch_id: str) -> BatchProgress:
        """Request a batch's cancellation. Raises NotFound."""
        async with self._database.write() as connection:
            repository = BatchRepository(connection)
            batch = await repository.lock(batch_id)
            if batch is None or batch.group_id != principal.group_id:
                raise NotFound.of("batch", batch_id)
            if batch.ended_at is None:
                await repository.request_cancel(batch_id, utc_now())
        self._bus.publish(Hint(HintKind.WORK_STORED, batch_id))
        return await self.get(principal, batch_id)

    async def delete(self, principal: Principal, batch_id: str) -> tuple[bool, int]:
        """Delete a batch that has ended and its executions; return whether the group had it, and how many there were.

        The batch goes last, so that a call which was interrupted can be repeated.

        Raises:
            FailedPrecondition: EXECUTION_STATE, it has not ended.
            Unavailable: auth cannot be asked to revoke a grant.
        """
        group_id = principal.group_id
        async with self._database.read() as connection:
            batch = await BatchRepository(connection).get(group_id, batch_id)
        if batch is None:
            return False, 0
        if batch.ended_at is None:
            raise FailedPrecondition(
                "the batch has executions that have not ended, or are to be made; cancel it, and delete it when it has "
                "ended",
                reason="EXECUTION_STATE",
                metadata={"batch_id": batch_id},
            )
        # Without the rows nobody would know that there are grants.
        await self._grants.revoke(batch_id)
        deleted = 0
        while (portion := await self._delete_portion(group_id, batch_id)) is not None:
            deleted += portion
        async with self._database.write() as connection:
            return await BatchRepository(connection).delete(group_id, batch_id), deleted

    async def _delete_portion(self, group_id: str, batch_id: str) -> int | None:
        """Delete some executions, and return how many were still there; None: there are no more."""
        async with self._database.read() as connection:
            ended = await BatchRepository(connection).ended_executions(group_id, batch_id, _DELETED_AT_ONCE)
        for execution_id in (execution_id for execution_id, grant_open in ended.items() if grant_open):
            await self._grants.revoke(execution_id)
        if not ended:
            return None
        async with self._database.write() as connection:
            return await RetentionRepository(connection).delete(group_id, ended)

    async def _checked(self, principal: Principal, start: Start, inputs: Inputs, max_parallel: int) -> Batch:
        """Return the batch of a request, without its grant; raise for what keeps its executions from running."""
        if start.identity is ExecutionIdentity.USER:
            raise InvalidArgument.field(
                "start.identity",
                "cannot be USER: the executions are made later; leave it out or choose GROUP, and make sure that the "
                "group has the credentials the crew needs",
            )
        if start.overlap_policy not in {OverlapPolicy.ALLOW, OverlapPolicy.QUEUE}:
            raise InvalidArgument.field(
                "start.overlap_policy", "has to be ALLOW or QUEUE: executions of one batch are to run one and all"
            )
        first = replace(start, inputs={**start.inputs, **inputs[0]})
        crew = await self._starter.startable(principal, first, "start.")
        needed = set(required_inputs(crew.spec)) - set(start.inputs)
        await asyncio.to_thread(self._refuse_faults, start, inputs, needed)
        return Batch(
            id=new_id(),
            group_id=principal.group_id,
            subject=principal.subject,
            crew_name=crew.spec.name,
            start=replace(
                start,
                crew_id=crew.id,
                crew_name="",
                crew_revision=crew.revision,
                priority=start.priority or _PRIORITY,
                identity=ExecutionIdentity.GROUP,
                on_credential_expiry=OnCredentialExpiry.PARK,
            ),
            max_parallel=max_parallel or _MAX_PARALLEL,
            total=len(inputs),
            started=0,
            grant_id="",
            created_at=utc_now(),
        )

    def _refuse_faults(self, start: Start, inputs: Inputs, needed: set[str]) -> None:
        violations: list[FieldViolation] = []
        common = len(to_json(dict(start.inputs)))
        for index, item in enumerate(inputs):
            violations += [
                FieldViolation(f"inputs[{index}].{name}", "is missing; the crew refers to it")
                for name in sorted(needed - item.keys())
            ]
            size = common + len(to_json(item))
            if size > self._max_inputs_bytes:
                violations.append(
                    FieldViolation(
                        f"inputs[{index}]",
                        f"have {size} bytes as JSON, with those of start, and may have {self._max_inputs_bytes}",
                    )
                )
            if len(violations) >= _MOST_VIOLATIONS:
                break
        if violations:
            raise InvalidArgument.fields(violations[:_MOST_VIOLATIONS])

    async def _revoke(self, batch_id: str) -> None:
        """Revoke the grant of a batch that is not stored; if that fails, nobody can use it."""
        try:
            await self._grants.revoke(batch_id)
        except CoxswainError as error:
            logger.warning("grant_not_revoked", batch_id=batch_id, reason=error.reason)

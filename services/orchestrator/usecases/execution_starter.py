"""Stores new executions: started by callers or schedules; see `ExecutionContinuer` for those that continue others."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol, TypeAlias

import structlog
from google.protobuf.message import Message
from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncConnection

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.errors import (
    CoxswainError,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
)
from services.common.identity.group_limits import GroupLimits
from services.common.ids import new_id
from services.common.tracing.spans import SpanKind, span
from services.orchestrator import tables
from services.orchestrator.domain.batch import BatchPlace
from services.orchestrator.domain.crew import Crew, CrewSpec
from services.orchestrator.domain.execution import (
    Execution,
    ExecutionState,
    OverlapPolicy,
    Start,
    TaskRun,
    TaskState,
    Usage,
)
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.limits import ExecutionLimits
from services.orchestrator.events import new_event
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.placeholders import required_inputs
from services.orchestrator.repositories.crews import read_crew
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.running_limits import RunningLimitRepository
from services.orchestrator.repositories.task_runs import TaskRunRepository
from services.orchestrator.usecases.crew_revisions import no_revision
from services.orchestrator.usecases.crew_validation import CrewValidation, crew_invalid
from services.orchestrator.usecases.open_executions import refuse_early, refuse_more
from services.orchestrator.usecases.open_questions import with_open_questions
from services.orchestrator.usecases.output_file_faults import output_name_faults
from services.orchestrator.usecases.overlap import Admitted, Overlap
from services.orchestrator.usecases.ports import Grants

logger = structlog.get_logger(__name__)


class ExecutionOwner(Protocol):
    """Whose execution it is: a principal's, or a schedule's on behalf of one."""

    @property
    def group_id(self) -> str:
        """Group of the execution."""
        ...

    @property
    def subject(self) -> str:
        """Subject who starts it."""
        ...


AlsoStore: TypeAlias = Callable[[AsyncConnection, Execution], Awaitable[None]]
"""What else is stored in the transaction that stores an execution; when it raises, neither is."""


class ExecutionStarter:
    """Stores executions for workers to run, each with the grant it acts under."""

    def __init__(
        self,
        database: Database,
        validation: CrewValidation,
        grants: Grants,
        bus: HintBus,
        overlap: Overlap,
        *,
        max_inputs_bytes: int,
    ) -> None:
        self._database = database
        self._validation = validation
        self._grants = grants
        self._bus = bus
        self._overlap = overlap
        self._max_inputs_bytes = max_inputs_bytes

    async def start(
        self,
        owner: ExecutionOwner,
        start: Start,
        request: RequestKey | None = None,
        *,
        limits: GroupLimits,
        schedule_id: str = "",
        batch: BatchPlace | None = None,
        also_store: AlsoStore | None = None,
        execution_id: str = "",
    ) -> Execution:
        """Store an execution that acts for the current caller; a repeated `request` returns the first one's.

        `limits` are those of the group. `execution_id` is a new id that was given out already; empty: another one.

        Raises:
            Aborted: `also_store` raised it.
            NotFound: the group does not have this crew.
            InvalidArgument: inputs are missing, or the crew cannot run; one violation for each fault.
            AlreadyExists: the request_id was used with another body, or CONCURRENCY_KEY_TAKEN.
            ResourceExhausted: QUOTA_EXCEEDED, the group has as many open executions as it may.
        """
        repeated = await self.find_repeated(owner, request)
        if repeated is not None:
            return repeated
        if not start.concurrency_key or start.overlap_policy in (OverlapPolicy.ALLOW, OverlapPolicy.QUEUE):
            # The other policies come first: SKIP has a reason of its own, and CANCEL_OLD makes room.
            await refuse_early(self._database, owner.group_id, limits)
        crew = await self.startable(owner, start)
        now = utc_now()
        execution = Execution(
            id=execution_id or new_id(),
            group_id=owner.group_id,
            subject=owner.subject,
            crew_id=crew.id,
            crew_revision=crew.revision,
            crew_name=crew.spec.name,
            state=ExecutionState.QUEUED,
            inputs=start.inputs,
            labels=start.labels,
            model=start.model,
            priority=start.priority,
            identity=start.identity,
            on_credential_expiry=start.on_credential_expiry,
            grant_id="",
            resumed_from="",
            timeout=start.timeout,
            deadline_at=None if start.timeout is None else now + timedelta(seconds=start.timeout),
            epoch=0,
            generation=1,
            ready=True,
            last_sequence=0,
            usage=Usage(),
            created_at=now,
            schedule_id=schedule_id,
            batch_id="" if batch is None else batch.batch_id,
            batch_index=None if batch is None else batch.index,
            concurrency_key=start.concurrency_key,
            overlap_policy=start.overlap_policy,
            limits=start.limits.lowered_by(crew.spec.limits),
        )
        tasks = [pending_run(execution.id, index, task.name) for index, task in enumerate(crew.spec.tasks)]
        changed = await self.changed_tool_events(owner.group_id, crew.spec, crew.tool_pins)
        return await self.queue(execution, tasks, request, also_store, changed, limits=limits)

    async def changed_tool_events(
        self, group_id: str, spec: CrewSpec, pins: Mapping[str, str] | None
    ) -> list[execution_pb2.ToolChanged]:
        """Return what is told of the tools that are not what a crew was stored with, and may be called although."""
        if pins is None:
            return []
        return [
            execution_pb2.ToolChanged(tool_name=tool.name, hash=tool.hash, added=tool.name not in pins)
            for tool in await self._validation.changed_tools(group_id, spec, pins)
        ]

    async def startable(
        self, owner: ExecutionOwner, start: Start, path: str = "", found: Sequence[FieldViolation] = ()
    ) -> Crew:
        """Return the crew of a start that could be started now; violations name fields of a start that lies at `path`.

        `found` are faults of the request that are refused together with those of the start.

        Raises:
            NotFound: the group does not have this crew.
            InvalidArgument: inputs are missing, or the crew cannot run; one violation for each fault.
        """
        if {fault.field for fault in found} & _crew_fields(path):
            raise InvalidArgument.fields(found)
        crew = await read_crew(self._database, owner.group_id, start.crew, start.crew_revision)
        if crew is None:
            missing = await self._missing(owner, start, path)
            if not found:
                raise missing
            faults = missing.violations or [FieldViolation(f"{path}crew", missing.message)]
            raise InvalidArgument.fields([*found, *faults])
        if start.overlap_policy is not OverlapPolicy.ALLOW and not start.concurrency_key:
            unnamed = FieldViolation(
                f"{path}concurrency_key",
                "is missing; name what executions must not do at once, or leave out overlap_policy",
            )
            found = [*found, unnamed]
        await self.refuse_faults(
            owner.group_id, crew.spec, start.inputs, start.model, start.limits, path, found, pins=crew.tool_pins
        )
        return crew

    async def _missing(self, owner: ExecutionOwner, start: Start, path: str) -> NotFound:
        """Return the failure to find the crew of a start."""
        newest = await read_crew(self._database, owner.group_id, start.crew) if start.crew_revision else None
        if newest is None:
            return NotFound.of("crew", str(start.crew))
        return no_revision(f"{path}crew_revision", str(start.crew), start.crew_revision, newest.revision)

    async def find_repeated(self, owner: ExecutionOwner, request: RequestKey | None) -> Execution | None:
        """Return what the first request of this key has made, if there was one.

        Raises:
            AlreadyExists: it had another body.
        """
        if request is None:
            return None
        async with self._database.read() as connection:
            first_id = await RequestRepository(connection, tables.requests).find(request)
            return None if first_id is None else await _first(connection, owner.group_id, first_id)

    async def refuse_faults(
        self,
        group_id: str,
        spec: CrewSpec,
        inputs: Mapping[str, Any],
        model: str,
        limits: ExecutionLimits,
        path: str = "",
        found: Sequence[FieldViolation] = (),
        *,
        pins: Mapping[str, str] | None,
    ) -> None:
        """Refuse a crew that cannot run with these inputs, model and limits; violations name fields below `path`.

        `found` are faults that are refused together with these; a field among them is not found fault with twice.
        `pins` are the tools that the crew was stored with.

        Raises:
            InvalidArgument: one violation for each fault.
        """
        broken = {fault.field for fault in found}
        size = len(to_json(dict(inputs)))
        if size > self._max_inputs_bytes:
            too_long = f"have {size} bytes as JSON and may have {self._max_inputs_bytes}; shorten them"
            raise InvalidArgument.fields([*found, FieldViolation(f"{path}inputs", too_long)])
        missing = [
            FieldViolation(f"{path}inputs.{name}", f"is missing; {text} of the crew refers to it as {{{name}}}")
            for name, text in required_inputs(spec).items()
            if name not in inputs
        ]
        faults = [
            # The fields of the start itself; all others are the crew's.
            replace(fault, field=f"{path}{fault.field}") if not fault.field.startswith("spec") else fault
            for fault in await self._validation.faults(group_id, spec, model=model, limits=limits, pins=pins)
        ]
        faults = [fault for fault in faults if fault.field not in broken]
        if faults:
            raise crew_invalid([*found, *missing, *faults])
        if not missing:
            found = [*found, *output_name_faults(spec, inputs, path)]
        if found:
            raise InvalidArgument.fields([*found, *missing])
        if missing:
            first = "; ".join(f"{violation.field}: {violation.description}" for violation in missing[:3])
            raise InvalidArgument(f"the crew needs other inputs: {first}", violations=missing)

    async def queue(
        self,
        execution: Execution,
        tasks: list[TaskRun],
        request: RequestKey | None,
        also_store: AlsoStore | None,
        events: Sequence[Message] = (),
        *,
        limits: GroupLimits,
    ) -> Execution:
        """Store an execution that has passed all checks, with the events after its first one, and tell the workers.

        `limits` are those of its group.

        Raises:
            AlreadyExists: the request_id was used with another body.
            ResourceExhausted: QUOTA_EXCEEDED, the group has as many open executions as it may.
        """
        with span("queue execution", SpanKind.PRODUCER, {"coxswain.execution.id": execution.id}) as queuing:
            execution = replace(execution, traceparent=queuing.traceparent)
            return await self._queue(execution, tasks, request, also_store, events, limits)

    async def _queue(
        self,
        execution: Execution,
        tasks: list[TaskRun],
        request: RequestKey | None,
        also_store: AlsoStore | None,
        events: Sequence[Message],
        limits: GroupLimits,
    ) -> Execution:
        # Before anything is queued: a worker must never find an execution that may not act.
        grant = await self._grants.create(execution.id, execution.identity, execution.on_credential_expiry)
        queued = execution_pb2.ExecutionQueued(
            crew_name=execution.crew_name, task_names=[task.name for task in tasks if task.task_index >= 0]
        )
        stored = [new_event(event) for event in (queued, *events)]
        execution = replace(execution, grant_id=grant.id, identity=grant.identity, last_sequence=len(stored))
        first_id = execution.id
        admitted = Admitted(execution)
        complete = False
        try:
            async with self._database.write() as connection:
                if request is not None:
                    first_id = await RequestRepository(connection, tables.requests).claim(request, execution.id)
                if first_id == execution.id:
                    admitted = await self._overlap.admit(connection, execution)
                    execution = admitted.execution
                    await refuse_more(connection, execution.group_id, limits, ending=admitted.running)
                    # Before a worker host can see it.
                    await RunningLimitRepository(connection).keep(execution.group_id, limits.max_running_executions)
                    await ExecutionRepository(connection).insert(execution)
                    await TaskRunRepository(connection, execution.id).insert(tasks)
                    await EventRepository(connection).store(
                        execution.group_id, execution.id, execution.last_sequence, stored
                    )
                    if also_store is not None:
                        await also_store(connection, execution)
                complete = True
        except BaseException:
            # Once all statements are done, nobody knows: a commit may have outlived its connection.
            if not complete:
                await self._revoke(execution.id)
            raise
        if first_id != execution.id:
            # Another call with this request_id was faster, and this one's execution is not stored.
            await self._revoke(execution.id)
            async with self._database.read() as connection:
                return await _first(connection, execution.group_id, first_id)
        logger.info("execution_accepted", execution_id=execution.id)
        if execution.ready:
            self._bus.publish(Hint(HintKind.EXECUTION_READY, execution.id))
        self._bus.publish(Hint(HintKind.EVENTS_STORED, execution.id, execution.last_sequence, execution.group_id))
        await self._overlap.announce(admitted)
        return execution

    async def _revoke(self, execution_id: str) -> None:
        """Revoke the grant of an execution that is not stored; if that fails, nobody can use it."""
        try:
            await self._grants.revoke(execution_id)
        except CoxswainError as error:
            logger.warning("grant_not_revoked", execution_id=execution_id, reason=error.reason)


async def existing_execution(connection: AsyncConnection, group_id: str, execution_id: str) -> Execution:
    """Return an execution of a group with its open questions. Raises NotFound."""
    execution = await ExecutionRepository(connection).get(group_id, execution_id)
    if execution is None:
        raise NotFound.of("execution", execution_id)
    return (await with_open_questions(connection, [execution]))[0]


async def _first(connection: AsyncConnection, group_id: str, execution_id: str) -> Execution:
    """Return the execution that the first request of an id made. Raises FailedPrecondition: EXECUTION_DELETED."""
    execution = await ExecutionRepository(connection).get(group_id, execution_id)
    if execution is None:
        raise FailedPrecondition(
            "the execution that this request_id started was deleted; choose a new request_id to start another one",
            reason="EXECUTION_DELETED",
            metadata={"execution_id": execution_id},
        )
    return execution


def pending_run(execution_id: str, index: int, name: str) -> TaskRun:
    """Return a task that has not been started."""
    return TaskRun(execution_id, index, name, TaskState.PENDING, attempt=0, usage=Usage(), copied=False)


def _crew_fields(path: str) -> set[str]:
    """Return the fields of a start at `path` without which its crew is not known."""
    return {path.removesuffix("."), *(f"{path}{name}" for name in ("crew", "crew_id", "crew_name", "crew_revision"))}

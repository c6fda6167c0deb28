"""Use cases of ExecutionService."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pydantic_core import to_json

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.errors import (
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
)
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.pagination import decode_page_token, encode_page_token, page_size
from services.orchestrator.domain import (
    ApprovalState,
    CrewSpec,
    Execution,
    ExecutionIdentity,
    ExecutionState,
    OnCredentialExpiry,
    StoredEvent,
    TaskRun,
    TaskState,
    Usage,
    to_document,
)
from services.orchestrator.events import new_event
from services.orchestrator.hints import Hint, HintBus, HintKind
from services.orchestrator.placeholders import required_inputs
from services.orchestrator.repositories.protocols import KnownRequest, RequestKey, Store, UnitOfWork
from services.orchestrator.usecases.crew_validation import CrewValidation, crew_invalid
from services.orchestrator.usecases.endings import Endings
from services.orchestrator.usecases.feed import ExecutionFeed
from services.orchestrator.usecases.pages import fitting
from services.orchestrator.usecases.ports import Grants
from services.orchestrator.usecases.texts import UNSTORABLE, unstorable

_LISTING = "executions"
_TASKS = "task_outputs"
# A crew has fewer.
_MAX_TASKS = 1000


@dataclass(frozen=True, slots=True)
class Start:
    """What to run, and how."""

    crew_id: str
    crew_revision: int
    """0 means the newest."""
    inputs: Mapping[str, Any]
    labels: Mapping[str, str]
    model: str
    priority: int
    timeout: float | None
    """Seconds; None means no limit."""
    identity: ExecutionIdentity
    on_credential_expiry: OnCredentialExpiry


@dataclass(frozen=True, slots=True)
class RequestId:
    """What tells a repeated request from a new one; an empty `value` makes every request a new one."""

    value: str
    body_hash: str


class ExecutionUseCases:
    """Starts, shows and steers the executions of groups."""

    def __init__(
        self,
        store: Store,
        validation: CrewValidation,
        grants: Grants,
        bus: HintBus,
        feed: ExecutionFeed,
        endings: Endings,
        *,
        max_inputs_bytes: int,
    ) -> None:
        self._store = store
        self._validation = validation
        self._grants = grants
        self._bus = bus
        self._feed = feed
        self._endings = endings
        self._max_inputs_bytes = max_inputs_bytes

    async def start(self, principal: Principal, start: Start, request: RequestId) -> Execution:
        """Store an execution for a worker to run.

        Raises:
            NotFound: the group has no such crew.
            InvalidArgument: inputs are missing, or the crew cannot run; one violation for each fault.
            AlreadyExists: the request_id was used with another body.
        """
        key = RequestKey(principal.group_id, principal.subject, "StartExecution", request.value)
        repeated = await self._find_repeated(key, request)
        if repeated is not None:
            return repeated
        async with self._store.read() as work:
            crew = await work.crews.get(principal.group_id, start.crew_id, start.crew_revision)
        if crew is None:
            revision = f" at revision {start.crew_revision}" if start.crew_revision else ""
            raise NotFound.of("crew", start.crew_id + revision)
        await self._refuse_faults(crew.spec, start)
        now = utc_now()
        execution = Execution(
            id=new_id(),
            group_id=principal.group_id,
            subject=principal.subject,
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
        )
        tasks = [_pending(execution.id, index, task.name) for index, task in enumerate(crew.spec.tasks)]
        return await self._queue(execution, tasks, key, request)

    async def resume(self, principal: Principal, execution_id: str, request: RequestId) -> Execution:
        """Store an execution that goes on where one that failed or was cancelled has ended.

        Raises:
            NotFound: the group has no such execution.
            FailedPrecondition: it has not ended, or ended well.
            InvalidArgument: the crew cannot run any more.
            AlreadyExists: the request_id was used with another body.
        """
        key = RequestKey(principal.group_id, principal.subject, "ResumeExecution", request.value)
        repeated = await self._find_repeated(key, request)
        if repeated is not None:
            return repeated
        async with self._store.read() as work:
            ended = await _existing(work, principal, execution_id)
            runs = await work.executions.task_runs(execution_id)
            spec = await work.crews.spec(ended.crew_id, ended.crew_revision)
        if ended.state not in {ExecutionState.FAILED, ExecutionState.CANCELLED}:
            raise FailedPrecondition(
                f"the execution is {ended.state}; only one that FAILED or was CANCELLED can be resumed",
                reason="EXECUTION_STATE",
                metadata={"execution_id": execution_id, "state": ended.state},
            )
        faults = await self._validation.faults(spec, model=ended.model)
        if faults:
            raise crew_invalid(faults)
        now = utc_now()
        execution = replace(
            ended,
            id=new_id(),
            subject=principal.subject,
            state=ExecutionState.QUEUED,
            grant_id="",
            resumed_from=ended.id,
            deadline_at=None if ended.timeout is None else now + timedelta(seconds=ended.timeout),
            epoch=0,
            generation=1,
            ready=True,
            last_sequence=0,
            usage=Usage(),
            created_at=now,
            started_at=None,
            ended_at=None,
            cancel_requested_at=None,
            result=None,
            error=None,
        )
        # A finished plan (at a place below 0) was paid for as well; one that is missing is made by a worker.
        tasks = [
            _continued(execution.id, run) for run in runs if run.task_index >= 0 or run.state is TaskState.SUCCEEDED
        ]
        return await self._queue(execution, tasks, key, request)

    async def get(self, principal: Principal, execution_id: str) -> Execution:
        """Return an execution. Raises NotFound."""
        async with self._store.read() as work:
            return await _existing(work, principal, execution_id)

    async def task_runs(
        self, principal: Principal, execution_id: str, requested_size: int, token: str
    ) -> tuple[Sequence[TaskRun], str]:
        """Return a page of the tasks of an execution in the crew's order, and the token of the next page.

        Raises:
            NotFound: the group has no such execution.
            InvalidArgument: the token is of another listing.
        """
        filters = {"execution": execution_id}
        key = decode_page_token(token, _TASKS, filters)
        # What workers do besides the crew's own tasks (a plan) has places below 0.
        after = key[0] if key and isinstance(key[0], int) else -1
        size = page_size(requested_size, default=_MAX_TASKS, maximum=_MAX_TASKS)
        async with self._store.read() as work:
            await _existing(work, principal, execution_id)
            found = await work.executions.task_runs(execution_id, after=after, limit=size + 1)
        page = fitting(found, size, _large_of_task)
        more = encode_page_token(_TASKS, filters, [page[-1].task_index]) if len(page) < len(found) else ""
        return page, more

    async def page(
        self, principal: Principal, crew_id: str, states: Collection[ExecutionState], requested_size: int, token: str
    ) -> tuple[Sequence[Execution], str]:
        """Return a page of the group's executions, newest first, and the token of the next page."""
        filters = {"group": principal.group_id, "crew": crew_id, "states": sorted(states)}
        key = decode_page_token(token, _LISTING, filters)
        before_id = key[0] if key and isinstance(key[0], str) else None
        size = page_size(requested_size)
        async with self._store.read() as work:
            found = await work.executions.page(principal.group_id, crew_id, states, before_id, size + 1)
        page = fitting(found, size, lambda execution: dict(execution.labels))
        token = encode_page_token(_LISTING, filters, [page[-1].id]) if len(page) < len(found) else ""
        return page, token

    async def watch(
        self, principal: Principal, execution_id: str, after_sequence: int, *, chunks: bool
    ) -> AsyncIterator[list[StoredEvent]]:
        """Yield the events of an execution after a sequence, each once and in order, in lists, until its last.

        Raises:
            NotFound: the group has no such execution.
            InvalidArgument: the execution has no event of that sequence yet.
            Unavailable: this process ends; watch again.
        """
        execution = await self.get(principal, execution_id)
        if after_sequence > execution.last_sequence:
            raise InvalidArgument.field(
                "after_sequence",
                f"the execution's newest event is {execution.last_sequence}; pass the last sequence you have seen",
            )
        if execution.state.terminal and after_sequence == execution.last_sequence:
            return
        events = self._feed.follow(execution_id, after_sequence, execution.last_sequence, chunks=chunks)
        async for batch in events:
            yield batch

    async def cancel(self, principal: Principal, execution_id: str) -> Execution:
        """Ask for an execution's end; one on which no worker is at work ends at once. Raises NotFound."""
        async with self._store.write() as work:
            execution = await work.executions.lock(execution_id, principal.group_id)
            if execution is None:
                raise NotFound.of("execution", execution_id)
            if execution.state.terminal:
                return execution
            await work.executions.request_cancel(execution_id, utc_now())
            if execution.state is not ExecutionState.RUNNING:
                await self._endings.end(work, execution, None)
            changed = await _existing(work, principal, execution_id)
        if changed.state.terminal:
            await self._endings.announce(execution_id, changed.last_sequence)
        else:
            self._bus.publish(Hint(HintKind.CANCEL_REQUESTED, execution_id))
        return changed

    async def answer(self, principal: Principal, approval_id: str, feedback: str, *, approved: bool) -> Execution:
        """Approve or refuse a result, and let its execution go on.

        Raises:
            NotFound: the group has no such approval.
            FailedPrecondition: it was answered otherwise before, or its execution has ended.
        """
        _refuse_unstorable({"feedback": feedback})
        answer = ApprovalState.APPROVED if approved else ApprovalState.REFUSED
        async with self._store.write() as work:
            approval = await work.approvals.get(principal.group_id, approval_id)
            if approval is None:
                raise NotFound.of("approval", approval_id)
            # Whoever answers or ends holds this lock: what is read under it stays.
            execution = await work.executions.lock(approval.execution_id, principal.group_id)
            approval = await work.approvals.get(principal.group_id, approval_id)
            if execution is None or approval is None:
                raise Internal("the execution of the approval is gone")
            if (approval.state, approval.feedback, approval.answered_by) == (answer, feedback, principal.subject):
                return execution
            if approval.state is not ApprovalState.PENDING or execution.state.terminal:
                raise FailedPrecondition(
                    f"the approval is {approval.state} and its execution {execution.state}; the first answer counts",
                    reason="APPROVAL_STATE",
                    metadata={"approval_id": approval_id, "state": approval.state},
                )
            await work.approvals.answer(approval_id, answer, feedback, principal.subject, utc_now())
            answered = execution_pb2.ApprovalAnswered(
                approval_id=approval_id, approved=approved, subject=principal.subject
            )
            await work.events.append(
                execution.id,
                [
                    new_event(
                        answered,
                        task_index=approval.task_index,
                        task_name=approval.task_name,
                        attempt=approval.attempt,
                    )
                ],
            )
            woken = execution.state is ExecutionState.WAITING_FOR_APPROVAL
            if woken:
                await work.executions.wake(execution.id)
            changed = await _existing(work, principal, execution.id)
        self._bus.publish(Hint(HintKind.EVENTS_STORED, changed.id, changed.last_sequence))
        if woken:
            self._bus.publish(Hint(HintKind.EXECUTION_READY, changed.id))
        return changed

    async def renew_credential(self, principal: Principal, execution_id: str) -> Execution:
        """Let an execution go on with the caller's present credential.

        Raises:
            NotFound: the group has no such execution, or somebody else started it.
            FailedPrecondition: EXECUTION_STATE, it has ended; CREDENTIAL_NOT_CONFIGURED, it acts with no token of the
                caller's, or they sent none.
            Unauthenticated: CREDENTIAL_EXPIRED, the caller's token has expired too.
        """
        execution = await self.get(principal, execution_id)
        if execution.state.terminal:
            raise FailedPrecondition(
                f"the execution is {execution.state}; there is nothing to renew",
                reason="EXECUTION_STATE",
                metadata={"execution_id": execution_id, "state": execution.state},
            )
        await self._grants.renew(execution_id)
        async with self._store.write() as work:
            locked = await work.executions.lock(execution_id, principal.group_id)
            woken = locked is not None and locked.state is ExecutionState.WAITING_FOR_CREDENTIAL
            if woken:
                await work.executions.wake(execution_id)
            changed = await _existing(work, principal, execution_id)
        if woken:
            self._bus.publish(Hint(HintKind.EXECUTION_READY, execution_id))
        return changed

    async def _find_repeated(self, key: RequestKey, request: RequestId) -> Execution | None:
        if not request.value:
            return None
        async with self._store.read() as work:
            earlier = await work.requests.find(key)
            return None if earlier is None else await _repeated(work, key, earlier, request)

    async def _refuse_faults(self, spec: CrewSpec, start: Start) -> None:
        _refuse_unstorable({"labels": start.labels, "inputs": start.inputs})
        size = len(to_json(dict(start.inputs)))
        if size > self._max_inputs_bytes:
            raise InvalidArgument.field(
                "inputs", f"have {size} bytes as JSON and may have {self._max_inputs_bytes}; shorten them"
            )
        missing = [
            FieldViolation(f"inputs.{name}", f"is missing; {path} of the crew refers to it as {{{name}}}")
            for name, path in required_inputs(spec).items()
            if name not in start.inputs
        ]
        faults = await self._validation.faults(spec, model=start.model)
        if faults:
            refusal = crew_invalid(faults)
            refusal.violations = (*missing, *refusal.violations)
            raise refusal
        if missing:
            told = "; ".join(f"{violation.field}: {violation.description}" for violation in missing[:3])
            raise InvalidArgument(f"the crew needs other inputs: {told}", violations=missing)

    async def _queue(
        self, execution: Execution, tasks: list[TaskRun], key: RequestKey, request: RequestId
    ) -> Execution:
        # Before anything is queued: a worker must never find an execution that may not act.
        grant = await self._grants.open(execution.id, execution.identity, execution.on_credential_expiry)
        execution = replace(execution, grant_id=grant.id, identity=grant.identity)
        queued = execution_pb2.ExecutionQueued(
            crew_name=execution.crew_name, task_names=[task.name for task in tasks if task.task_index >= 0]
        )
        made = KnownRequest(request.body_hash, execution.id)
        async with self._store.write() as work:
            earlier = await work.requests.claim(key, made, execution.created_at) if request.value else None
            if earlier is None:
                await work.executions.insert(execution, tasks)
                await work.events.append(execution.id, [new_event(queued)])
        if earlier is not None:
            # Another call with this request_id was faster, and this one's execution is not stored.
            await self._grants.close(execution.id)
            async with self._store.read() as work:
                return await _repeated(work, key, earlier, request)
        execution = replace(execution, last_sequence=1)
        self._bus.publish(Hint(HintKind.EXECUTION_READY, execution.id))
        self._bus.publish(Hint(HintKind.EVENTS_STORED, execution.id, execution.last_sequence))
        return execution


async def _existing(work: UnitOfWork, principal: Principal, execution_id: str) -> Execution:
    execution = await work.executions.get(principal.group_id, execution_id)
    if execution is None:
        raise NotFound.of("execution", execution_id)
    return execution


async def _repeated(work: UnitOfWork, key: RequestKey, earlier: KnownRequest, request: RequestId) -> Execution:
    if earlier.request_hash != request.body_hash:
        raise AlreadyExists.request_id(key.request_id)
    execution = await work.executions.get(key.group_id, earlier.resource_id)
    if execution is None:
        raise NotFound.of("execution", earlier.resource_id)
    return execution


def _large_of_task(run: TaskRun) -> list[Any]:
    return [to_document(part) for part in (run.output, run.error) if part is not None]


def _pending(execution_id: str, index: int, name: str) -> TaskRun:
    return TaskRun(execution_id, index, name, TaskState.PENDING, attempt=0, usage=Usage(), copied=False)


def _continued(execution_id: str, run: TaskRun) -> TaskRun:
    if run.state is not TaskState.SUCCEEDED:
        return _pending(execution_id, run.task_index, run.name)
    # What it cost was paid by the execution it comes from.
    return replace(run, execution_id=execution_id, attempt=0, usage=Usage(), copied=True)


def _refuse_unstorable(texts: Mapping[str, Any]) -> None:
    violations = [FieldViolation(path, UNSTORABLE) for name, value in texts.items() for path in unstorable(name, value)]
    if violations:
        raise InvalidArgument(
            "; ".join(f"{fault.field}: {fault.description}" for fault in violations), violations=violations
        )

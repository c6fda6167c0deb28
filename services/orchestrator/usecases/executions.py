"""Use cases of ExecutionService, but for those that make executions."""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.errors import FailedPrecondition, Internal, InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.paging import decode_page_token, encode_page_token, page_size
from services.orchestrator.domain.approval import ApprovalState
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.event import StoredEvent
from services.orchestrator.domain.execution import Execution, ExecutionState, TaskRun
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.events import new_event
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.protocols import Store, UnitOfWork
from services.orchestrator.usecases.endings import Endings
from services.orchestrator.usecases.feed import ExecutionFeed
from services.orchestrator.usecases.pages import fitting
from services.orchestrator.usecases.ports import Grants
from services.orchestrator.usecases.texts import refuse_unstorable

_LISTING = "executions"
_TASKS = "task_outputs"
# A crew has fewer.
_MAX_TASKS = 1000


class ExecutionUseCases:
    """Shows and steers the executions of groups."""

    def __init__(self, store: Store, grants: Grants, bus: HintBus, feed: ExecutionFeed, endings: Endings) -> None:
        self._store = store
        self._grants = grants
        self._bus = bus
        self._feed = feed
        self._endings = endings

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
        self,
        principal: Principal,
        crew_id: str,
        schedule_id: str,
        states: Collection[ExecutionState],
        requested_size: int,
        token: str,
    ) -> tuple[Sequence[Execution], str]:
        """Return a page of the group's executions, newest first, and the token of the next page."""
        filters = {"group": principal.group_id, "crew": crew_id, "states": sorted(states)}
        if schedule_id:
            # Left out otherwise: tokens of the release before do not have it.
            filters["schedule"] = schedule_id
        key = decode_page_token(token, _LISTING, filters)
        before_id = key[0] if key and isinstance(key[0], str) else None
        size = page_size(requested_size)
        async with self._store.read() as work:
            found = await work.executions.page(principal.group_id, crew_id, schedule_id, states, before_id, size + 1)
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
        refuse_unstorable({"feedback": feedback})
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


async def _existing(work: UnitOfWork, principal: Principal, execution_id: str) -> Execution:
    execution = await work.executions.get(principal.group_id, execution_id)
    if execution is None:
        raise NotFound.of("execution", execution_id)
    return execution


def _large_of_task(run: TaskRun) -> list[Any]:
    return [to_document(part) for part in (run.output, run.error) if part is not None]

"""Use cases of ExecutionService."""

from collections.abc import AsyncIterator
from dataclasses import replace

from pydantic_core import to_json

from services.common.db.database import Database
from services.common.db.idempotency import RequestKey
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.paging import Page, Pager
from services.orchestrator.domain.continuation import Continuation
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.event import StoredEvent
from services.orchestrator.domain.execution import Execution, ExecutionState, Start, TaskRun
from services.orchestrator.domain.execution_filter import ExecutionFilter
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.artifacts import ArtifactRepository
from services.orchestrator.repositories.executions import ExecutionRepository, read_execution
from services.orchestrator.repositories.questions import read_open
from services.orchestrator.repositories.task_runs import TaskRunRepository
from services.orchestrator.usecases.event_feed import EventFeed
from services.orchestrator.usecases.execution_continuer import ExecutionContinuer
from services.orchestrator.usecases.execution_ender import ExecutionEnder
from services.orchestrator.usecases.execution_starter import (
    AlsoStore,
    ExecutionOwner,
    ExecutionStarter,
    existing_execution,
)
from services.orchestrator.usecases.open_questions import asking, tasks_with_open_questions, with_open_questions
from services.orchestrator.usecases.ports import Grants

# Labels are all that is large of a listed one, and have their limits.
_EXECUTIONS = Pager("executions", portion=200)
# A crew has fewer tasks. What workers do besides them (a plan) has an index below 0.
_TASKS = Pager("task_outputs", key_types=(int,), default=1000)


class Executions:
    """Starts, shows and steers the executions of groups."""

    def __init__(
        self,
        database: Database,
        grants: Grants,
        bus: HintBus,
        feed: EventFeed,
        starter: ExecutionStarter,
        continuer: ExecutionContinuer,
        ender: ExecutionEnder,
    ) -> None:
        self._database = database
        self._grants = grants
        self._bus = bus
        self._feed = feed
        self._starter = starter
        self._continuer = continuer
        self._ender = ender

    async def start(
        self, principal: Principal, start: Start, request: RequestKey | None, also_store: AlsoStore | None = None
    ) -> Execution:
        """Store an execution for a worker to run. See `ExecutionStarter.start` for what it raises."""
        return await self._starter.start(principal, start, request, limits=principal.limits, also_store=also_store)

    async def continue_execution(
        self, principal: Principal, wanted: Continuation, request: RequestKey | None
    ) -> Execution:
        """Store an execution that continues another one. See `ExecutionContinuer` for what it raises."""
        return await self._continuer.continue_execution(principal, wanted, request)

    async def get(self, principal: Principal, execution_id: str) -> Execution:
        """Return an execution. Raises NotFound."""
        execution = await self._row(principal, execution_id)
        return (
            execution if execution.state.terminal else asking(execution, await read_open(self._database, execution_id))
        )

    async def _row(self, principal: Principal, execution_id: str) -> Execution:
        """Return an execution without its open questions. Raises NotFound."""
        execution = await read_execution(self._database, principal.group_id, execution_id)
        if execution is None:
            raise NotFound.of("execution", execution_id)
        return execution

    async def task_runs(self, principal: Principal, execution_id: str, size: int, token: str) -> Page[TaskRun]:
        """Return a page of the tasks of an execution, in the crew's order.

        Raises:
            NotFound: the group does not have this execution.
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        async with self._database.read() as connection:
            execution = await existing_execution(connection, principal.group_id, execution_id)
            runs = TaskRunRepository(connection, execution_id)
            page = await _TASKS.page(
                size,
                token,
                {"execution": execution_id},
                lambda after, limit: runs.list(after=after[0] if after else -1, limit=limit),
                lambda run: [run.task_index],
                _size_of_task,
            )
            shown = await tasks_with_open_questions(connection, execution, page.items)
            files = await ArtifactRepository(connection, execution_id).results([run.task_index for run in shown])
            return replace(page, items=[replace(run, output_artifact=files.get(run.task_index, "")) for run in shown])

    async def page(self, principal: Principal, chosen: ExecutionFilter, size: int, token: str) -> Page[Execution]:
        """Return a page of the group's executions, newest first. Raises InvalidArgument: INVALID_PAGE_TOKEN."""
        group_id = principal.group_id
        async with self._database.read() as connection:
            executions = ExecutionRepository(connection)
            page = await _EXECUTIONS.page(
                size,
                token,
                {"group": group_id, **chosen.fingerprint()},
                lambda after, limit: executions.page(group_id, chosen, after[0] if after else None, limit),
                lambda execution: [execution.id],
                lambda execution: len(to_json(dict(execution.labels))),
            )
            return replace(page, items=await with_open_questions(connection, page.items))

    async def watch(
        self, principal: Principal, execution_id: str, after_sequence: int, *, chunks: bool
    ) -> AsyncIterator[list[StoredEvent]]:
        """Yield the events of an execution after a sequence, each once and in order, in lists, until its last.

        Raises:
            NotFound: the group does not have this execution.
            InvalidArgument: the execution has no event of that sequence yet.
            Unavailable: this process is shutting down; watch again.
        """
        execution = await self._row(principal, execution_id)
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

    async def cancel(self, owner: ExecutionOwner, execution_id: str) -> Execution:
        """Request an execution's cancellation; one that no worker runs ends at once. Raises NotFound."""
        async with self._database.write() as connection:
            executions = ExecutionRepository(connection)
            execution = await executions.lock(execution_id, owner.group_id)
            if execution is None:
                raise NotFound.of("execution", execution_id)
            if execution.state.terminal:
                return execution
            await self._ender.cancel(connection, execution)
            changed = await existing_execution(connection, owner.group_id, execution_id)
        await self._ender.announce_cancel(changed)
        return changed

    async def renew_credential(self, principal: Principal, execution_id: str) -> Execution:
        """Let an execution continue with the caller's present credential.

        Raises:
            NotFound: the group does not have this execution, or another subject started it.
            FailedPrecondition: EXECUTION_STATE, it has ended; CREDENTIAL_NOT_CONFIGURED, it does not act with a
                token of the caller's, or they sent none.
            Unauthenticated: CREDENTIAL_EXPIRED, the caller's token has expired too.
        """
        execution = await self._row(principal, execution_id)
        if execution.state.terminal:
            raise FailedPrecondition(
                f"the execution is {execution.state}; there is nothing to renew",
                reason="EXECUTION_STATE",
                metadata={"execution_id": execution_id, "state": execution.state},
            )
        await self._grants.renew(execution_id)
        async with self._database.write() as connection:
            executions = ExecutionRepository(connection)
            locked = await executions.lock(execution_id, principal.group_id)
            woken = locked is not None and locked.state is ExecutionState.WAITING_FOR_CREDENTIAL
            if woken:
                await executions.wake(execution_id)
            changed = await existing_execution(connection, principal.group_id, execution_id)
        if woken:
            self._bus.publish(Hint(HintKind.EXECUTION_READY, execution_id))
        return changed


def _size_of_task(run: TaskRun) -> int:
    return sum(len(to_json(to_document(part))) for part in (run.output, run.error) if part is not None)

"""Tasks of other systems: sent, shown, listed and cancelled."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.errors import CoxswainError, InvalidArgument, NotFound, Unavailable
from services.common.identity.group_limits import GroupLimits
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Pager
from services.common.resource_key import ResourceKey
from services.orchestrator import tables
from services.orchestrator.domain.a2a import Publication, TaskRow, TaskState
from services.orchestrator.domain.a2a_errors import a2a_error, task_not_found, unsupported
from services.orchestrator.domain.crew import Crew
from services.orchestrator.domain.execution import Execution, ExecutionIdentity, OnCredentialExpiry, Start
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository, TaskFilter
from services.orchestrator.repositories.crews import read_crew
from services.orchestrator.repositories.publications import read_first_publications, read_publication
from services.orchestrator.usecases.a2a.context import conversation
from services.orchestrator.usecases.a2a.history import TaskHistory
from services.orchestrator.usecases.a2a.inputs import (
    IncomingMessage,
    gathered,
    missing_inputs,
    provided,
    refuse_content,
)
from services.orchestrator.usecases.a2a.streams import TaskStreams
from services.orchestrator.usecases.a2a.views import TaskView, read_views
from services.orchestrator.usecases.execution_starter import AlsoStore, ExecutionStarter
from services.orchestrator.usecases.executions import Executions
from services.orchestrator.usecases.open_executions import refuse_more_drafts

LABEL = "a2a"
"""The label of executions that other systems have started; its value is the tenant."""
_TASKS = Pager("a2a_tasks", key_types=(str, str, int), maximum=100, portion=10)
_CANCEL_SECONDS = 5.0
# More at once would keep other writers waiting.
_DRAFTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Some tasks of a listing."""

    tasks: Sequence[TaskView]
    next_page_token: str
    total: int
    """Tasks of the whole listing, when its first page was read."""


class A2ATasks:
    """The tasks of groups."""

    def __init__(
        self,
        database: Database,
        starter: ExecutionStarter,
        executions: Executions,
        streams: TaskStreams,
        history: TaskHistory,
        *,
        max_inputs_bytes: int,
    ) -> None:
        self._database = database
        self._starter = starter
        self._executions = executions
        self._streams = streams
        self._history = history
        self._max_inputs_bytes = max_inputs_bytes

    async def published(self, principal: Principal, tenant: str) -> tuple[Publication, Crew]:
        """Return the agent that a tenant names; an empty one names the group's default, or its only one.

        Raises:
            NotFound: TASK_NOT_FOUND, the group has no such agent.
            InvalidArgument: none is named, and the group has several.
        """
        publication = await self._publication(principal.group_id, tenant)
        crew = await read_crew(self._database, principal.group_id, ResourceKey(publication.crew_id))
        # The release before keeps a publication whose crew it stores anew.
        if crew is None or not crew.spec.a2a.published:
            raise task_not_found()
        return publication, crew

    async def send(
        self, principal: Principal, tenant: str, message: IncomingMessage, request: RequestKey | None
    ) -> str:
        """Make a task of a message that names none, and return its id; a repeated `request` returns the first one's.

        Raises:
            NotFound: TASK_NOT_FOUND, the group has no such agent, or no task that the message refers to.
            InvalidArgument: CONTENT_TYPE_NOT_SUPPORTED, or an input is not one that the crew takes.
            CoxswainError: the execution cannot be started; see `ExecutionStarter.start`.
        """
        publication, crew = await self.published(principal, tenant)
        refuse_content(crew.spec, message)
        inputs = gathered(crew.spec, message, {})
        task = TaskRow(
            id=new_id(),
            group_id=principal.group_id,
            tenant=publication.tenant,
            crew_id=crew.id,
            crew_revision=crew.revision,
            context_id=message.context_id or new_id(),
            status_time=utc_now(),
            subject=principal.subject,
        )
        if missing_inputs(crew.spec, inputs):
            return await self._store_draft(task, inputs, message, request, principal.limits)

        async def also_store(connection: AsyncConnection, execution: Execution) -> None:
            started = replace(
                task,
                crew_revision=execution.crew_revision,
                status_time=execution.created_at,
                execution_id=execution.id,
            )
            await A2ATaskRepository(connection).insert(started)
            await self._history.say(connection, started, message, task.subject)

        return await self.start(principal, task, crew, inputs, message, also_store, request, execution_id=task.id)

    async def start(
        self,
        principal: Principal,
        task: TaskRow,
        crew: Crew,
        inputs: Mapping[str, Any],
        message: IncomingMessage,
        also_store: AlsoStore,
        request: RequestKey | None = None,
        *,
        execution_id: str = "",
    ) -> str:
        """Start the execution of a task, and return the id of the task that has it."""
        context = await conversation(self._database, task, crew.spec, message.reference_task_ids)
        given = provided(crew.spec, message.message_id, task.context_id, task.id, context)
        start = Start(
            crew_id=crew.id,
            crew_revision=crew.revision,
            inputs={**inputs, **given},
            labels={LABEL: task.tenant},
            model="",
            priority=0,
            timeout=None,
            identity=ExecutionIdentity.UNSPECIFIED,
            on_credential_expiry=OnCredentialExpiry.PARK,
        )
        execution = await self._starter.start(
            principal, start, request, limits=principal.limits, also_store=also_store, execution_id=execution_id
        )
        return task.id if execution.id == execution_id or not request else await self._made(task, execution.id)

    async def repeated(self, principal: Principal, request: RequestKey) -> str | None:
        """Return the id of the task that the first request of this key has made or changed, if there was one.

        Raises:
            AlreadyExists: it had another body.
            FailedPrecondition: UNSUPPORTED_OPERATION, its task is there no more.
        """
        async with self._database.read() as connection:
            made = await RequestRepository(connection, tables.requests).find(request)
            if made is None:
                return None
            found = await A2ATaskRepository(connection).made_by(principal.group_id, made)
        if found is None:
            raise unsupported("the task of the first message with this key was deleted; send a new key for a new task")
        return found.id

    async def get(
        self, principal: Principal, tenant: str, task_id: str, *, results: bool = True, history: int | None = None
    ) -> TaskView:
        """Return a task of the group; of a tenant, if one is given. For `history` see `read_views`.

        Raises NotFound: TASK_NOT_FOUND.
        """
        if tenant:
            await self._publication(principal.group_id, tenant)
        async with self._database.read() as connection:
            row = await A2ATaskRepository(connection).get(principal.group_id, task_id, tenant)
            if row is None:
                raise task_not_found()
            (view,) = await read_views(connection, [row], results=results, history=history)
        return view

    async def settled(self, principal: Principal, task_id: str, history: int | None) -> TaskView:
        """Return a task when it has ended or waits for somebody; as it stands, when this process ends before."""
        with suppress(Unavailable):
            while (awaited := await self._awaited(principal, task_id)) is not None:
                await self._streams.settle(*awaited)
        return await self.get(principal, "", task_id, history=history)

    async def _awaited(self, principal: Principal, task_id: str) -> tuple[str, int] | None:
        """Return the execution of a task that is not settled, and its newest event: all that a waiting call keeps."""
        view = await self.get(principal, "", task_id, results=False, history=0)
        return None if view.execution is None or view.settled else (view.execution.id, view.execution.last_sequence)

    async def page(
        self, principal: Principal, chosen: TaskFilter, size: int, token: str, *, results: bool, history: int | None
    ) -> TaskPage:
        """Return some of the group's tasks, the newest status first. For `history` see `read_views`.

        Raises:
            NotFound: TASK_NOT_FOUND, the group has no such agent.
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        group_id = principal.group_id
        if chosen.tenant:
            await self._publication(group_id, chosen.tenant)
        filters = {
            "group": group_id,
            "tenant": chosen.tenant,
            "context": chosen.context_id,
            "state": chosen.state or "",
            "since": chosen.changed_since or "",
        }
        total: int | None = None
        async with self._database.read() as connection:
            tasks = A2ATaskRepository(connection)

            async def read(after: list[Any] | None, limit: int) -> list[TaskView]:
                nonlocal total
                if total is None:
                    # Once for a listing, however long: its tokens carry it.
                    total = await tasks.count(group_id, chosen) if after is None else int(after[2])
                before = None if after is None else (datetime.fromisoformat(after[0]), after[1])
                rows = await tasks.page(group_id, chosen, before, limit)
                return await read_views(connection, rows, results=results, contents=False, history=history)

            page = await _TASKS.page(
                size,
                token,
                filters,
                read,
                lambda view: [view.row.status_time.isoformat(), view.row.id, total],
                lambda view: view.size,
            )
            return TaskPage(page.items, page.next_page_token, total or 0)

    async def cancel(self, principal: Principal, tenant: str, task_id: str) -> TaskView:
        """Cancel a task; of one that runs, wait a moment for its end, and return it as it then stands.

        Raises:
            NotFound: TASK_NOT_FOUND.
            FailedPrecondition: TASK_NOT_CANCELABLE, it has ended.
        """
        view = await self._cancelable(principal, tenant, task_id)
        if view.execution is None:
            async with self._database.write() as connection:
                cancelled = await A2ATaskRepository(connection).cancel_draft(task_id)
            if not cancelled:
                # A message was faster: the task has an execution by now, or has ended.
                view = await self._cancelable(principal, tenant, task_id)
        if view.execution is not None:
            try:
                await self._executions.cancel(principal, view.execution.id)
            except NotFound:
                raise task_not_found() from None
            with suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(_CANCEL_SECONDS):
                    if (awaited := await self._awaited(principal, task_id)) is not None:
                        await self._streams.settle(*awaited)
        view = await self.get(principal, "", task_id)
        if view.state.terminal and view.state is not TaskState.CANCELED:
            raise _not_cancelable(view.state)
        return view

    async def _cancelable(self, principal: Principal, tenant: str, task_id: str) -> TaskView:
        view = await self.get(principal, tenant, task_id, results=False, history=0)
        if view.state.terminal:
            raise _not_cancelable(view.state)
        return view

    async def end_old_drafts(self, before: datetime) -> None:
        """Cancel tasks that have waited for inputs since before a time. Replicas may do it at once."""
        ended = 1
        while ended:
            async with self._database.write() as connection:
                ended = await A2ATaskRepository(connection).end_old_drafts(before, _DRAFTS_AT_ONCE)

    def refuse_large(self, inputs: Mapping[str, Any]) -> None:
        """Raise InvalidArgument for inputs that are more than an execution may have."""
        size = len(to_json(dict(inputs)))
        if size > self._max_inputs_bytes:
            raise InvalidArgument.field(
                "message.parts",
                f"give inputs of {size} bytes as JSON, and {self._max_inputs_bytes} are allowed; send less",
            )

    async def _store_draft(
        self,
        task: TaskRow,
        inputs: Mapping[str, Any],
        message: IncomingMessage,
        request: RequestKey | None,
        limits: GroupLimits,
    ) -> str:
        self.refuse_large(inputs)
        draft = replace(task, draft_state=TaskState.INPUT_REQUIRED, draft_inputs=inputs)
        async with self._database.write() as connection:
            tasks = A2ATaskRepository(connection)
            if request is not None:
                first_id = await RequestRepository(connection, tables.requests).claim(request, task.id)
                if first_id != task.id:
                    # A copy of the message was faster.
                    return first_id
            await refuse_more_drafts(connection, task.group_id, limits)
            await tasks.insert(draft)
            await self._history.say(connection, draft, message, draft.subject)
        return task.id

    async def _made(self, task: TaskRow, execution_id: str) -> str:
        async with self._database.read() as connection:
            found = await A2ATaskRepository(connection).made_by(task.group_id, execution_id)
        return task.id if found is None else found.id

    async def _publication(self, group_id: str, tenant: str) -> Publication:
        if tenant:
            named = await read_publication(self._database, group_id, tenant)
            if named is None:
                raise task_not_found()
            return named
        found = await read_first_publications(self._database, group_id)
        if not found:
            raise task_not_found()
        if len(found) > 1 and not found[0].is_default:
            raise InvalidArgument.field(
                "tenant", "is missing, and your group has several agents with none as its default; name one"
            )
        return found[0]


def _not_cancelable(state: TaskState) -> CoxswainError:
    return a2a_error("TASK_NOT_CANCELABLE", f"the task is {state}; only one that has not ended can be cancelled")

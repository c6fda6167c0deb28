"""Messages to tasks that wait for somebody."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.resource_key import ResourceKey
from services.orchestrator import tables
from services.orchestrator.domain.a2a import TaskRow, TaskState
from services.orchestrator.domain.a2a_errors import task_not_found, unsupported
from services.orchestrator.domain.crew import Crew
from services.orchestrator.domain.execution import Execution
from services.orchestrator.domain.question import Answer, Question, QuestionKind, QuestionState
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository
from services.orchestrator.repositories.crews import read_crew
from services.orchestrator.repositories.webhooks import WebhookRepository
from services.orchestrator.usecases.a2a.history import TaskHistory
from services.orchestrator.usecases.a2a.inputs import (
    IncomingMessage,
    PartKind,
    gathered,
    missing_inputs,
    refuse_content,
)
from services.orchestrator.usecases.a2a.tasks import A2ATasks
from services.orchestrator.usecases.a2a.views import TaskView
from services.orchestrator.usecases.executions import Executions
from services.orchestrator.usecases.questions import Questions

_APPROVING = frozenset({"approve", "approved", "yes", "ok"})
_APPROVALS = frozenset({QuestionKind.RESULT_APPROVAL, QuestionKind.TOOL_APPROVAL})
_CONTENT = "accept.content"
_ACTIONS = {
    "accept": QuestionState.ACCEPTED,
    "decline": QuestionState.DECLINED,
    "cancel": QuestionState.CANCELLED,
}


class _Changed(Exception):
    """Another message was faster."""


class FollowUps:
    """Takes messages that name a task."""

    def __init__(
        self,
        database: Database,
        tasks: A2ATasks,
        executions: Executions,
        questions: Questions,
        history: TaskHistory,
    ) -> None:
        self._database = database
        self._history = history
        self._tasks = tasks
        self._executions = executions
        self._questions = questions

    async def send(
        self, principal: Principal, tenant: str, message: IncomingMessage, request: RequestKey | None
    ) -> str:
        """Do what a message says to the task that it names, and return the task's id.

        Raises:
            NotFound: TASK_NOT_FOUND.
            InvalidArgument: the message is of another context, or its content is not what the task waits for.
            FailedPrecondition: UNSUPPORTED_OPERATION, the task does not wait for anything.
            PermissionDenied: the question needs a higher role.
        """
        view = await self._tasks.get(principal, tenant, message.task_id, results=False, history=0)
        if message.context_id and message.context_id != view.row.context_id:
            raise InvalidArgument.field(
                "message.context_id", f'is not that of the task, "{view.row.context_id}"; leave it out or send that one'
            )
        if view.state.terminal:
            raise unsupported(f"the task is {view.state}, and takes no more messages; send one without a task_id")
        if view.execution is None:
            await self._fill(principal, view.row, message, request)
        elif view.state is TaskState.AUTH_REQUIRED:
            async with self._database.read() as connection:
                await self._history.refuse(connection, view.row, message, principal.subject)
            await self._renew(principal, view.execution.id)
            async with self._database.write() as connection:
                await A2ATaskRepository(connection).lock_with_execution(view.row)
                if await _is_first(connection, request, view.row.id):
                    await self._history.say(connection, view.row, message, principal.subject)
        elif view.state is TaskState.INPUT_REQUIRED and view.question is not None:
            await self._answer(principal, view, view.question, message, request)
        else:
            raise unsupported(
                f"the task is {view.state}, and takes messages while it is INPUT_REQUIRED or AUTH_REQUIRED alone; wait "
                "with SubscribeToTask"
            )
        return view.row.id

    async def _renew(self, principal: Principal, execution_id: str) -> None:
        try:
            await self._executions.renew_credential(principal, execution_id)
        except NotFound:
            raise unsupported("only the subject who began the task can let it go on with a fresh credential") from None
        except FailedPrecondition as error:
            raise unsupported(error.message) from None

    async def _fill(
        self, principal: Principal, row: TaskRow, message: IncomingMessage, request: RequestKey | None
    ) -> None:
        crew = await read_crew(self._database, principal.group_id, ResourceKey(row.crew_id), row.crew_revision)
        if crew is None:
            raise task_not_found()
        refuse_content(crew.spec, message)
        while True:
            inputs = gathered(crew.spec, message, row.draft_inputs or {})
            self._tasks.refuse_large(inputs)
            try:
                await self._fill_or_start(principal, row, crew, inputs, message, request)
            except _Changed:
                async with self._database.read() as connection:
                    present = await A2ATaskRepository(connection).get(principal.group_id, row.id)
                if present is None:
                    raise task_not_found() from None
                if present.execution_id is not None or present.draft_state is not TaskState.INPUT_REQUIRED:
                    raise unsupported("another message was faster; the task takes no more inputs") from None
                row = present
            else:
                return

    async def _fill_or_start(
        self,
        principal: Principal,
        row: TaskRow,
        crew: Crew,
        inputs: Mapping[str, Any],
        message: IncomingMessage,
        request: RequestKey | None,
    ) -> None:
        async def still_the_same(connection: AsyncConnection) -> A2ATaskRepository:
            tasks = A2ATaskRepository(connection)
            if await tasks.lock(row.id) != row:
                raise _Changed
            return tasks

        if missing_inputs(crew.spec, inputs):
            async with self._database.write() as connection:
                tasks = await still_the_same(connection)
                if await _is_first(connection, request, row.id):
                    await tasks.fill(row.id, inputs)
                    await self._history.say(connection, row, message, principal.subject)
            return

        async def also_store(connection: AsyncConnection, execution: Execution) -> None:
            tasks = await still_the_same(connection)
            await tasks.start(row.id, execution.id)
            await self._history.say(connection, row, message, principal.subject)
            await WebhookRepository(connection).bind(row.id, execution.id)

        await self._tasks.start(principal, row, crew, inputs, message, also_store, request)

    async def _answer(
        self,
        principal: Principal,
        view: TaskView,
        question: Question,
        message: IncomingMessage,
        request: RequestKey | None,
    ) -> None:
        async def also_store(connection: AsyncConnection, _: Execution) -> None:
            await self._history.say(connection, view.row, message, principal.subject)

        answer = answer_to(question, message)
        try:
            await self._questions.answer(principal, question.id, answer, request, also_store)
        except InvalidArgument as error:
            path = f"{message.objects[0].path}.data" if message.objects else "message.parts"
            raise InvalidArgument.fields(
                [FieldViolation(_moved(fault.field, path), fault.description) for fault in error.violations]
            ) from None
        except FailedPrecondition as error:
            raise unsupported(f"{error.message}; read the task to see what it waits for now") from None


async def _is_first(connection: AsyncConnection, request: RequestKey | None, task_id: str) -> bool:
    """Whether no copy of a message to a locked task has been taken before; from now on one has."""
    if request is None:
        return True
    requests = RequestRepository(connection, tables.requests)
    return await requests.find(request) is None and await requests.claim(request, task_id) == task_id


def answer_to(question: Question, message: IncomingMessage) -> Answer:
    """Return the answer that a message gives to a question.

    Raises:
        InvalidArgument: it says nothing that the question can be answered with.
    """
    data: dict[str, Any] = message.objects[0].value if message.objects else {}
    action = data.get("action")
    if isinstance(action, str) and action in _ACTIONS and set(data) <= {"action", "content", "feedback"}:
        state = _ACTIONS[action]
        content = data.get("content") if state is QuestionState.ACCEPTED else None
        return Answer(state, content, _feedback(data) if state is QuestionState.DECLINED else "")
    if question.kind in _APPROVALS:
        if isinstance(data.get("approved"), bool):
            return _approval(data["approved"], _feedback(data))
        if message.objects:
            raise InvalidArgument.field(
                f"{message.objects[0].path}.data",
                'must say {"approved": true}, or {"approved": false, "feedback": "why"}',
            )
        text = _words(message)
        return _approval(text.lower() in _APPROVING, text)
    if message.objects:
        return Answer(QuestionState.ACCEPTED, data)
    text = _words(message)
    if question.schema is None:
        return Answer(QuestionState.ACCEPTED, None if question.kind is QuestionKind.URL else text)
    if (name := _only_text(question.schema)) is not None:
        return Answer(QuestionState.ACCEPTED, {name: text})
    raise InvalidArgument.field("message.parts", "must have a part of data that follows the question's schema")


def _words(message: IncomingMessage) -> str:
    """Return the text of a message. Raises InvalidArgument: it has none, and so is no answer to anything."""
    text = "\n\n".join(part.value for part in message.parts if part.kind is PartKind.TEXT).strip()
    if not text:
        raise InvalidArgument.field("message.parts", "have no text; answer the question in words, or by a part of data")
    return text


def _approval(approved: bool, feedback: str) -> Answer:
    return Answer(QuestionState.ACCEPTED) if approved else Answer(QuestionState.DECLINED, reason=feedback)


def _feedback(data: Mapping[str, Any]) -> str:
    given = data.get("feedback", "")
    return given if isinstance(given, str) else ""


def _only_text(schema: Mapping[str, Any]) -> str | None:
    """Return the name of the only property of a schema, if that is a text."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or len(properties) != 1:
        return None
    ((name, property_schema),) = properties.items()
    return name if isinstance(property_schema, dict) and property_schema.get("type") == "string" else None


def _moved(field: str, path: str) -> str:
    return f"{path}{field.removeprefix(_CONTENT)}" if field.startswith(_CONTENT) else field

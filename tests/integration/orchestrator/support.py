"""Calling the orchestrator as somebody, reading why it refused, and playing the worker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from coxswain.auth.v1.secret_pb2 import PutSecretRequest
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceStub
from coxswain.orchestrator.v1.execution_service_pb2_grpc import ExecutionServiceStub
from coxswain.orchestrator.v1.question_service_pb2_grpc import QuestionServiceStub
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.principal import Role
from services.common.ids import new_id
from services.orchestrator.domain.crew import OnDeadline
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.execution import ExecutionState, TaskOutput, TaskState
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.question import DEFAULT_TEXT, Question, QuestionKind, QuestionState
from services.orchestrator.events import new_event
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.hints.postgres import PostgresHintBus
from services.orchestrator.hints.remote import RemoteHintBus
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.tables import execution_events, executions, task_runs
from tests.support.exhausted import fault_of_exhausted
from tests.support.harness import ALICE, Harness
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceAsyncStub
    from coxswain.orchestrator.v1.execution_service_pb2_grpc import ExecutionServiceAsyncStub
    from coxswain.orchestrator.v1.question_service_pb2_grpc import QuestionServiceAsyncStub

EVERY_FIELD = FieldMask(paths=["*"])
CAPABLE_MODEL = "ollama/qwen3:8b"
"""A seeded model that calls tools and follows schemas, without a key; it is never called here."""
KEYED_MODEL = "openai/gpt-4o-mini"
"""A seeded model with a price that cannot be called without a key."""


async def store_key(harness: Harness) -> None:
    """Store a key of the group for models of OpenAI."""
    request = PutSecretRequest(name="llm/openai", value="k", allowed_origins=["https://api.openai.com"])
    await SecretServiceStub(harness.channel()).PutSecret(request)


@dataclass
class Refusal:
    """A failed call: what its details say."""

    message: str = ""
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def refused(code: grpc.StatusCode, reason: str) -> Iterator[Refusal]:
    """Expect a call to fail with a status code and a reason."""
    refusal = Refusal()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield refusal
    refusal.message = caught.value.details() or ""
    status = rpc_status.from_call(cast("Any", caught.value))
    assert status is None or not fault_of_exhausted(status)
    for detail in status.details if status else ():
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            refusal.reason, refusal.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(request):
            refusal.violations = {fault.field: fault.description for fault in request.field_violations}
    assert (caught.value.code(), refusal.reason) == (code, reason), refusal


def crews(harness: Harness, bearer: str = ALICE) -> "CrewServiceAsyncStub":
    """Return a stub on the public listener."""
    channel: grpc.aio.Channel = harness.channel(bearer)
    return CrewServiceStub(channel)


def executions_of(harness: Harness, bearer: str = ALICE) -> "ExecutionServiceAsyncStub":
    """Return a stub on the public listener."""
    channel: grpc.aio.Channel = harness.channel(bearer)
    return ExecutionServiceStub(channel)


def questions_of(harness: Harness, bearer: str = ALICE) -> "QuestionServiceAsyncStub":
    """Return a stub on the public listener."""
    channel: grpc.aio.Channel = harness.channel(bearer)
    return QuestionServiceStub(channel)


def spec(name: str = "brief", **fields: Any) -> crew_pb2.CrewSpec:
    """Return a crew of two agents and three tasks that runs on the offline model."""
    base = crew_pb2.CrewSpec(
        name=name,
        agents=[
            crew_pb2.AgentSpec(name="reader", role="Reader of {topic}", goal="Read"),
            crew_pb2.AgentSpec(name="editor", role="Editor", goal="Edit"),
        ],
        tasks=[
            crew_pb2.TaskSpec(name="read", description="Read {text}", expected_output="Notes", agent="reader"),
            crew_pb2.TaskSpec(name="edit", description="Edit", expected_output="A brief", agent="editor"),
            crew_pb2.TaskSpec(name="check", description="Check", expected_output="A brief", agent="reader"),
        ],
    )
    base.MergeFrom(crew_pb2.CrewSpec(**fields))
    return base


def start_request(crew_id: str, **fields: Any) -> execution_pb2.StartExecutionRequest:
    """Return a request to run `spec()` with its inputs."""
    request = execution_pb2.StartExecutionRequest(crew_id=crew_id, **fields)
    request.inputs["topic"].string_value = "ships"
    request.inputs["text"].string_value = "A coxswain steers."
    return request


async def create_crew(harness: Harness, bearer: str = ALICE, **fields: Any) -> crew_pb2.Crew:
    """Store a crew."""
    request = crew_pb2.CreateCrewRequest(spec=spec(**fields))
    return (await crews(harness, bearer).CreateCrew(request)).crew


async def start(harness: Harness, bearer: str = ALICE, **fields: Any) -> execution_pb2.Execution:
    """Store a crew and an execution of it."""
    crew = await create_crew(harness, bearer, name=f"crew {new_id()}")
    return (await executions_of(harness, bearer).StartExecution(start_request(crew.id, **fields))).execution


class Worker:
    """Writes the rows a worker host writes, and sends its hints."""

    def __init__(self, database: Database, bus: HintBus) -> None:
        self.database = database
        self.bus = bus

    async def claim(self, execution_id: str) -> int:
        """Take the execution and return the epoch."""
        async with self.database.write() as connection:
            row = await connection.execute(
                executions.update()
                .where(executions.c.id == execution_id, executions.c.state == ExecutionState.QUEUED)
                .values(state=ExecutionState.RUNNING, epoch=executions.c.epoch + 1, ready=False, started_at=utc_now())
                .returning(executions.c.epoch)
            )
            epoch: int = row.scalar_one()
        await self.emit(execution_id, execution_pb2.ExecutionStarted(claim=epoch), epoch=epoch)
        return epoch

    async def emit(
        self, execution_id: str, *bodies: Message, epoch: int | None = None, hint: bool = True
    ) -> int | None:
        """Store events and tell of them."""
        async with self.database.write() as connection:
            events = [new_event(body, call_id=getattr(body, "call_id", "")) for body in bodies]
            last = await EventRepository(connection).append(execution_id, events, epoch=epoch)
        if hint and last is not None:
            await self._hint(execution_id, last)
        return last

    async def finish_task(self, execution_id: str, index: int, text: str) -> None:
        """Store a task's result."""
        async with self.database.write() as connection:
            await connection.execute(
                task_runs.update()
                .where(task_runs.c.execution_id == execution_id, task_runs.c.task_index == index)
                .values(state=TaskState.SUCCEEDED, attempt=1, output=to_document(TaskOutput(text)), ended_at=utc_now())
            )
            completed = execution_pb2.TaskCompleted(output=execution_pb2.TaskOutput(text=text))
            await EventRepository(connection).append(execution_id, [new_event(completed, task_index=index)])

    async def end(self, execution_id: str, state: ExecutionState, body: Message) -> None:
        """End the execution with its last event."""
        async with self.database.write() as connection:
            last = await EventRepository(connection).append(execution_id, [new_event(body)])
            await connection.execute(
                executions.update()
                .where(executions.c.id == execution_id)
                .values(state=state, ended_at=utc_now(), ready=False)
            )
        assert last is not None
        await self._hint(execution_id, last)

    async def _hint(self, execution_id: str, last: int) -> None:
        group_id = (await self.row(execution_id)).group_id
        self.bus.publish(Hint(HintKind.EVENTS_STORED, execution_id, last, group_id))

    async def ask(self, execution_id: str, index: int, **fields: Any) -> str:
        """Ask whether a task's result is good, and return the question's id."""
        async with self.database.write() as connection:
            row = (await connection.execute(executions.select().where(executions.c.id == execution_id))).one()
            question = Question(
                **{
                    "id": new_id(),
                    "kind": QuestionKind.RESULT_APPROVAL,
                    "state": QuestionState.OPEN,
                    "group_id": row.group_id,
                    "execution_id": execution_id,
                    "crew_id": row.crew_id,
                    "crew_name": row.crew_name,
                    "task_index": index,
                    "task_name": "edit",
                    "attempt": 1,
                    "text": DEFAULT_TEXT,
                    "result": TaskOutput("draft", agent_role="Editor"),
                    "schema": None,
                    "role": Role.EDITOR,
                    "deadline_at": None,
                    "on_deadline": OnDeadline.DECLINE,
                    "created_at": utc_now(),
                    **fields,
                }
            )
            await QuestionRepository(connection).insert(question)
            await connection.execute(
                task_runs.update()
                .where(task_runs.c.execution_id == execution_id, task_runs.c.task_index == index)
                .values(state=TaskState.WAITING_FOR_ANSWER, output=to_document(question.result))
            )
        self.bus.publish(Hint(HintKind.QUESTIONS_CHANGED, execution_id))
        return question.id

    async def park(self, execution_id: str, index: int, **fields: Any) -> str:
        """Ask about a task's result, let go of the execution, and return the question's id."""
        question_id = await self.ask(execution_id, index, **fields)
        async with self.database.write() as connection:
            await connection.execute(
                executions.update()
                .where(executions.c.id == execution_id)
                .values(state=ExecutionState.WAITING_FOR_ANSWER)
            )
        return question_id

    async def prune(self, execution_id: str, call_id: str) -> None:
        """Remove the pieces of one model's answer."""
        async with self.database.write() as connection:
            await connection.execute(
                execution_events.delete().where(
                    execution_events.c.execution_id == execution_id,
                    execution_events.c.call_id == call_id,
                    execution_events.c.kind == "llm_chunk",
                )
            )

    async def row(self, execution_id: str) -> Any:
        """Return the execution's row."""
        async with self.database.read() as connection:
            return (await connection.execute(executions.select().where(executions.c.id == execution_id))).one()


@contextlib.asynccontextmanager
async def working(harness: Harness, database_url: str) -> AsyncIterator[Worker]:
    """Play a worker host on the database of the services, with the bus a host would use."""
    on_postgres = database_url.startswith("postgresql")
    url = database_url if on_postgres else f"sqlite:///{harness.data_dir / 'orchestrator.db'}"
    database = Database(url, "orchestrator")
    # A worker host is the orchestrator too: it has the service's identity.
    bus: HintBus = (
        PostgresHintBus(database)
        if on_postgres
        else RemoteHintBus(harness.peers("orchestrator").channel("orchestrator"), "host-1")
    )
    try:
        # Before it hears, it would miss what a test has happen.
        with bus.subscribe(HintKind.RESYNC) as hints:
            async with asyncio.timeout(PATIENCE):
                await bus.start()
                await hints.take()
        yield Worker(database, bus)
    finally:
        await bus.close()
        await database.close()

"""What callers do while the installation is disturbed, and what becomes of it."""

import asyncio
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from coxswain.client import AsyncClient, CoxswainError
from coxswain.memory.v1.memory_pb2 import (
    CountRecordsRequest,
    GetRecordRequest,
    Namespace,
    SaveRecordsRequest,
)
from coxswain.memory.v1.record_pb2 import Record, UnifiedRecord
from coxswain.models.v1.inference_pb2 import (
    CompleteRequest,
    Completion,
    ContentPart,
    Message,
    MessageRole,
)
from coxswain.models.v1.model_pb2 import ListModelsRequest
from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, TaskContext, TaskSpec
from coxswain.orchestrator.v1.execution_pb2 import ExecutionEvent, ExecutionState, ListExecutionsRequest
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply

T = TypeVar("T")

ALICE = "dev:alice:sales=editor"
_MODEL = "openai/gpt-4.1-mini"
_TASKS = ("first", "second")
_MARK = uuid.uuid4().hex[:8]
_LABELS = {"soak": _MARK}
_NAMESPACE = Namespace(memory_id=f"soak-{_MARK}")
_DIMENSION = 8
_AGAIN_SECONDS = 1.0
_EXECUTIONS_AT_ONCE = 3


@dataclass
class Flow:
    """What came of the calls of one kind."""

    seconds: list[float] = field(default_factory=list)
    failed: list[tuple[float, float, str]] = field(default_factory=list)
    """Begin and end of each call that failed, and how."""

    def line(self, name: str, excused: Callable[[float, float], bool]) -> str:
        """Return what to print of it."""
        faults = [how for began, ended, how in self.failed if not excused(began, ended)]
        ordered = sorted(self.seconds)
        p50 = statistics.median(ordered) if ordered else 0.0
        p99 = ordered[int(len(ordered) * 0.99)] if ordered else 0.0
        total = len(self.seconds) + len(self.failed)
        counted = ", ".join(f"{how} x{count}" for how, count in Counter(faults).most_common(4))
        return (
            f"{name:12} {total:6} calls, {len(faults):3} failed, {len(self.failed) - len(faults):3} while the database "
            f"was away, p50 {p50 * 1000:6.0f} ms, p99 {p99 * 1000:6.0f} ms  {counted}"
        )


class Load:
    """Callers of every service, each of whom says what is wrong."""

    def __init__(self, client: AsyncClient, llm: LlmEmulator, callers: int) -> None:
        """Of each kind, besides executions, there are so many `callers`, which make some ten calls per second."""
        self._callers = callers
        self._client = client
        self._llm = llm
        self.flows = {name: Flow() for name in ("executions", "completions", "memories", "listings")}
        self.wrong: list[str] = []
        """What must not be, whatever was done to processes."""
        self._started: dict[str, str] = {}
        """Request ids of executions, and their ids."""
        self._saved: dict[str, str] = {}
        """Ids of memories that were stored, and their texts."""
        self._attempted = 0
        self._stopping = asyncio.Event()

    def prepare(self) -> None:
        """Script the model."""
        for name in _TASKS:
            self._llm.on(Reply(text=f"Result of {name}.", latency_s=0.3), route="chat", contains=f"Work on {name}")
        self._llm.on(Reply(text="Aye.", latency_s=0.05), route="chat")

    async def run(self) -> None:
        """Call until `stop`."""
        crew = (await self._client.apply_crew(_crew())).crew
        async with asyncio.TaskGroup() as group:
            for _ in range(_EXECUTIONS_AT_ONCE):
                group.create_task(self._repeat(lambda: self._execute(crew.id), 0.2))
            for _ in range(self._callers):
                group.create_task(self._repeat(self._complete, 0.2))
                group.create_task(self._repeat(self._remember, 0.3))
                group.create_task(self._repeat(self._list, 0.3))

    def stop(self) -> None:
        """Let callers end what they do."""
        self._stopping.set()

    async def check(self) -> None:
        """Compare what is stored with what was answered, once all callers have ended."""
        listed: Counter[str] = Counter()
        token = ""
        while True:
            request = ListExecutionsRequest(labels=_LABELS, page_size=500, page_token=token)
            page = await self._client.executions.ListExecutions(request)
            for execution in page.executions:
                listed[execution.id] += 1
                if execution.state != ExecutionState.EXECUTION_STATE_SUCCEEDED:
                    state = ExecutionState.Name(execution.state)
                    self.wrong.append(f"execution {execution.id} is {state}: {execution.error.message}")
            token = page.next_page_token
            if not token:
                break
        ids = Counter(self._started.values())
        self.wrong += [f"execution {lost} is lost" for lost in ids.keys() - listed.keys()]
        self.wrong += [f"execution {more} was started without being asked for" for more in listed.keys() - ids.keys()]
        self.wrong += [f"two requests have the execution {one}" for one, count in ids.items() if count > 1]
        stored = (await self._client.memory.CountRecords(CountRecordsRequest(namespace=_NAMESPACE))).count
        if not len(self._saved) <= stored <= self._attempted:
            self.wrong.append(f"{stored} memories are stored; {len(self._saved)} of {self._attempted} were confirmed")
        for record_id, text in self._saved.items():
            await self._read_back(record_id, text)

    @property
    def executions(self) -> int:
        """How many executions have been started."""
        return len(self._started)

    async def _repeat(self, action: Callable[[], Awaitable[None]], pause: float) -> None:
        while not self._stopping.is_set():
            await action()
            await asyncio.sleep(pause)

    async def _timed(self, flow: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call until it succeeds, as a caller does that must not lose it."""
        while True:
            began = time.monotonic()
            try:
                answer = await call()
            except CoxswainError as error:
                how = f"{error.code.name} {error.reason}: {error.message[:60]}"
                self.flows[flow].failed.append((began, time.monotonic(), how))
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                self.flows[flow].seconds.append(time.monotonic() - began)
                return answer

    async def _execute(self, crew_id: str) -> None:
        request_id = uuid.uuid4().hex
        client = self._client
        started = await self._timed("executions", lambda: client.start(crew_id, request_id=request_id, labels=_LABELS))
        self._started[request_id] = started.id
        events: list[ExecutionEvent] = []
        try:
            async for event in client.watch(started.id):
                events.append(event)
        except CoxswainError as error:
            self.wrong.append(f"the watch of {started.id} ended: {error.code.name} {error.message}")
            return
        sequences = [event.sequence for event in events]
        if sequences != sorted(set(sequences)):
            self.wrong.append(f"events of {started.id} are out of order or doubled: {sequences}")
        kinds = [event.WhichOneof("event") for event in events]
        if kinds.count("execution_succeeded") != 1 or kinds[-1] != "execution_succeeded":
            self.wrong.append(f"execution {started.id} ended with {kinds[-3:]}")
        completed = [event.task_name for event in events if event.HasField("task_completed")]
        if tuple(completed) != _TASKS:
            self.wrong.append(f"execution {started.id} completed {completed}")

    async def _complete(self) -> None:
        said = ContentPart(text="Are you there?")
        message = Message(role=MessageRole.MESSAGE_ROLE_USER, content=[said])
        request = CompleteRequest(completion=Completion(model=_MODEL, messages=[message]), request_id=uuid.uuid4().hex)
        answer = await self._timed("completions", lambda: self._client.inference.Complete(request))
        if answer.text != "Aye.":
            self.wrong.append(f"a completion is {answer.text!r}")

    async def _remember(self) -> None:
        text = f"memory {uuid.uuid4().hex}"
        record = Record(unified=UnifiedRecord(content=text), embedding=_vector(text))
        request = SaveRecordsRequest(namespace=_NAMESPACE, records=[record], embedding_model="soak")
        self._attempted += 1
        answer = await self._timed("memories", lambda: self._client.memory.SaveRecords(request))
        self._saved[answer.ids[0]] = text
        await self._read_back(answer.ids[0], text)

    async def _read_back(self, record_id: str, text: str) -> None:
        request = GetRecordRequest(namespace=_NAMESPACE, id=record_id)
        found = await self._timed("memories", lambda: self._client.memory.GetRecord(request))
        if found.record.unified.content != text:
            self.wrong.append(f"memory {record_id} is {found.record.unified.content!r}")

    async def _list(self) -> None:
        await self._timed("listings", lambda: self._client.models.ListModels(ListModelsRequest()))
        await self._timed("listings", self._client.whoami)


def _crew() -> CrewSpec:
    agent = AgentSpec(name="worker", role="Worker", goal="Do the task", backstory="Seasoned")
    tasks = [
        TaskSpec(
            name=name,
            description=f"Work on {name}",
            expected_output="One line",
            agent=agent.name,
            context=TaskContext(),
        )
        for name in _TASKS
    ]
    return CrewSpec(name=f"soak-{_MARK}", agents=[agent], tasks=tasks, model=_MODEL)


def _vector(text: str) -> list[float]:
    return [float(ord(letter)) for letter in text[-_DIMENSION:]]

"""A whole installation on loopback: services in this process before an LLM emulator, worker hosts as real processes."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from sqlalchemy import func, select

from coxswain.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from coxswain.models.v1.usage_service_pb2_grpc import UsageServiceStub
from coxswain.orchestrator.v1 import artifact_pb2, crew_pb2, execution_pb2
from coxswain.orchestrator.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceStub
from coxswain.orchestrator.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.common.db.database import Database
from services.common.ids import new_id
from services.models.settings import ModelsSettings
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tables import executions, task_runs, tool_journal
from tests.support.harness import ALICE, Harness, serve_services
from tests.support.llm_emulator import LlmEmulator
from tests.support.waiting import until

CAPABLE = "openai/capable"
REASONER = "openai/gpt-5"
SMALL = "openai/small"
UNMEASURED = "openai/unmeasured"
WORDS_ONLY = "openai/words-only"
MODELS: list[dict[str, Any]] = [
    {"name": "offline/extract", "provider": "offline", "capabilities": ["chat"], "context_window": 1000000},
    {"name": "offline/embed", "provider": "offline", "capabilities": ["embeddings"], "embedding_dimension": 256},
    {
        "name": CAPABLE,
        "provider": "openai",
        "capabilities": ["chat", "tools", "json_schema"],
        "context_window": 100000,
        "input_cost_per_million_tokens": 2.0,
        "output_cost_per_million_tokens": 8.0,
    },
    {"name": SMALL, "provider": "openai", "capabilities": ["chat", "tools"], "context_window": 1500},
    {"name": WORDS_ONLY, "provider": "openai", "capabilities": ["chat"], "context_window": 100000},
    {"name": UNMEASURED, "provider": "openai", "capabilities": ["chat", "tools"]},
    {"name": REASONER, "provider": "openai", "capabilities": ["chat", "tools", "json_schema", "reasoning"]},
]
SPARE, AT_WORK = "coxswain-spare", "coxswain-crew"
"""What crew processes call themselves before and after they have been given an execution."""
WAIT_SECONDS = 110
QUICK = {
    "COXSWAIN_WORKER_LEASE_SECONDS": "10",
    "COXSWAIN_WORKER_HEARTBEAT_SECONDS": "1",
    "COXSWAIN_WORKER_SWEEP_SECONDS": "0.3",
    "COXSWAIN_WORKER_DRAIN_SECONDS": "2",
    "COXSWAIN_WORKER_SAFETY_READ_SECONDS": "0.5",
    "COXSWAIN_WORKER_MODEL_RETRY_BASE_SECONDS": "0.02",
    "COXSWAIN_WORKER_MODEL_RETRY_LONGEST_SECONDS": "0.6",
    "COXSWAIN_WORKER_MODEL_WAIT_SLOT_SECONDS": "0.6",
}
"""Settings of hosts that find out soon that another one has died, and wait for models fifty times as fast as usual.

One that is killed is known by its lock. A lease is as long as a busy machine may keep a living host waiting.
"""
FASTER = 50


@dataclass
class WorkerProcess:
    """A worker host."""

    process: Process
    executor_id: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def descendants(self) -> list[int]:
        """Ids of its fork server and its crew processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]
        return []

    @property
    def fork_server(self) -> int:
        return int(psutil.Process(self.pid).children()[0].pid)

    def crew_processes(self) -> list[int]:
        """Ids of the crew processes that have been given an execution."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children(recursive=True)
            return [child.pid for child in children if _name(child) == AT_WORK]
        return []

    @property
    def crew_process(self) -> int:
        (crew_process,) = self.crew_processes()
        return crew_process

    @property
    def spare_processes(self) -> list[int]:
        """Ids of the crew processes that were forked ahead."""
        return [child.pid for child in psutil.Process(self.fork_server).children() if _name(child) == SPARE]

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), WAIT_SECONDS)


@dataclass
class Installation:
    """Services and worker hosts that run."""

    harness: Harness
    llm: LlmEmulator
    database: Database
    environment: dict[str, str]
    workers: list[WorkerProcess] = field(default_factory=list)

    async def hosts(self, count: int) -> list[WorkerProcess]:
        """Return that many worker hosts that live, starting as many as are missing."""
        living = [worker for worker in self.workers if worker.process.returncode is None]
        started = await asyncio.gather(*(self.worker() for _ in range(count - len(living))))
        self.workers = [*living, *started]
        return self.workers

    async def holder(self) -> WorkerProcess:
        """Wait until one of the hosts runs a crew process, and return it."""
        found: list[WorkerProcess] = []

        def one_holds() -> bool:
            found[:] = [worker for worker in self.workers if worker.crew_processes()]
            return len(found) == 1

        await until(one_holds)
        return found[0]

    async def worker(self, **environment: str) -> WorkerProcess:
        """Start a worker host and wait until it takes executions."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.orchestrator.worker",
            env=self.environment | environment,
            stdin=DEVNULL,
            stdout=PIPE,
        )
        worker = WorkerProcess(process)
        self.workers.append(worker)
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS)
        announced = json.loads(line)
        assert announced["event"] == "worker_ready"
        worker.executor_id = announced["executor_id"]
        return worker

    # ---- calling

    def crews(self, bearer: str = ALICE) -> Any:
        return CrewServiceStub(self.harness.channel(bearer))

    def usage(self, bearer: str = ALICE) -> Any:
        return UsageServiceStub(self.harness.channel(bearer))

    def memory(self, bearer: str = ALICE) -> Any:
        return MemoryServiceStub(self.harness.channel(bearer))

    def artifacts(self, bearer: str = ALICE) -> Any:
        return ArtifactServiceStub(self.harness.channel(bearer))

    def executions(self, bearer: str = ALICE) -> Any:
        return ExecutionServiceStub(self.harness.channel(bearer))

    async def start(
        self, spec: crew_pb2.CrewSpec, *, inputs: Mapping[str, str] | None = None, **fields: Any
    ) -> execution_pb2.Execution:
        """Store a crew and start an execution of it."""
        spec.name = f"{spec.name} {new_id()}"
        created = await self.crews().CreateCrew(crew_pb2.CreateCrewRequest(spec=spec))
        request = execution_pb2.StartExecutionRequest(crew_id=created.crew.id, **fields)
        for name, value in (inputs or {}).items():
            request.inputs[name].string_value = value
        started = await self.executions().StartExecution(request)
        execution: execution_pb2.Execution = started.execution
        return execution

    async def watch(
        self, execution_id: str, until: Callable[[execution_pb2.ExecutionEvent], bool] | None = None, after: int = 0
    ) -> list[execution_pb2.ExecutionEvent]:
        """Return events until one meets `until`, or to the last."""
        events: list[execution_pb2.ExecutionEvent] = []
        request = execution_pb2.WatchExecutionRequest(id=execution_id, after_sequence=after)
        async with asyncio.timeout(WAIT_SECONDS):
            async for response in self.executions().WatchExecution(request):
                events.append(response.event)
                if until is not None and until(response.event):
                    return events
        return events

    async def task_started(self, execution_id: str, name: str, attempt: int = 1) -> None:
        """Wait until it is stored that a task has been started: a host that dies sooner has not told of it."""
        started = is_kind("task_started", name)
        await self.watch(execution_id, lambda event: started(event) and event.attempt == attempt)

    async def get(self, execution_id: str) -> execution_pb2.Execution:
        response = await self.executions().GetExecution(execution_pb2.GetExecutionRequest(id=execution_id))
        execution: execution_pb2.Execution = response.execution
        return execution

    async def tasks(self, execution_id: str) -> list[execution_pb2.TaskRun]:
        request = execution_pb2.GetTaskOutputsRequest(id=execution_id)
        return list((await self.executions().GetTaskOutputs(request)).tasks)

    async def finished(self, execution_id: str) -> execution_pb2.Execution:
        """Wait for an execution's end."""
        await self.watch(execution_id)
        return await self.get(execution_id)

    async def files(self, execution_id: str) -> dict[str, bytes]:
        """The contents of an execution's files, by their names."""
        listed = await self.artifacts().ListArtifacts(artifact_pb2.ListArtifactsRequest(execution_id=execution_id))
        contents = {}
        for name in [artifact.name for artifact in listed.artifacts]:
            request = artifact_pb2.DownloadArtifactRequest(execution_id=execution_id, name=name)
            contents[name] = b"".join([piece.content async for piece in self.artifacts().DownloadArtifact(request)])
        return contents

    async def journaled_tools(self, execution_id: str) -> int:
        """How many tool calls of an execution have run."""
        async with self.database.read() as connection:
            query = select(func.count()).where(tool_journal.c.execution_id == execution_id)
            return int((await connection.execute(query)).scalar_one())

    async def rows(self, execution_id: str) -> list[tuple[Any, ...]]:
        """Everything the rows of an execution hold, but whether its grant is known to be revoked yet."""
        async with self.database.read() as connection:
            return [
                tuple(value for name, value in row._mapping.items() if name != "grant_open")
                for table, column in ((executions, executions.c.id), (task_runs, task_runs.c.execution_id))
                for row in await connection.execute(select(table).where(column == execution_id))
            ]


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(process.name())
    return ""


def kinds(events: list[execution_pb2.ExecutionEvent]) -> list[str]:
    """What happened, in order."""
    return [str(event.WhichOneof("event")) for event in events]


def is_kind(kind: str, task: str = "") -> Callable[[execution_pb2.ExecutionEvent], bool]:
    """An event of a kind, of a task if one is named."""
    return lambda event: event.WhichOneof("event") == kind and task in {"", event.task_name}


def alive(pid: int) -> bool:
    """Whether a process still runs (a zombie does not)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def install(
    data_dir: Path, *, database_url: str = "", housekeeping_seconds: str = "5", **environment: str
) -> AbstractAsyncContextManager["Installation"]:
    """Serve everything but workers, which are started by the test, and the tool gateway."""
    return _installed(data_dir, database_url, float(housekeeping_seconds), environment, tools=False)


def install_with_tools(data_dir: Path) -> AbstractAsyncContextManager["Installation"]:
    """Serve everything but workers, with a tool gateway that may call this machine."""
    return _installed(data_dir, "", 5, {}, tools=True)


@contextlib.asynccontextmanager
async def _installed(
    data_dir: Path, database_url: str, housekeeping_seconds: float, environment: Mapping[str, str], *, tools: bool
) -> AsyncIterator[Installation]:
    seed = data_dir / "models.yaml"
    seed.write_text(yaml.safe_dump({"models": MODELS}))
    sqlite = not database_url or database_url.startswith("sqlite")
    async with LlmEmulator() as llm:
        os.environ |= {"OPENAI_API_KEY": "sk-of-the-emulator-0001", "OPENAI_BASE_URL": f"{llm.url}/v1"}
        models = ModelsSettings(
            seed_file=seed,
            openai_base_url=f"{llm.url}/v1",
            retry_base_seconds=0.01,
            retry_max_seconds=0.05,
            embed_retry_max_seconds=0.05,
            breaker_pause_seconds=0.02,
            breaker_max_seconds=0.6,
        )
        try:
            async with serve_services(
                data_dir,
                "models",
                "memory",
                "orchestrator",
                *(["tools"] if tools else []),
                database_url=database_url,
                settings={
                    "models": models,
                    "orchestrator": OrchestratorSettings(
                        housekeeping_seconds=housekeeping_seconds,
                        tool_egress_allowed_networks=["127.0.0.0/8"] if tools else [],
                    ),
                },
            ) as harness:
                url = f"sqlite:///{data_dir}/orchestrator.db" if sqlite else database_url
                database = Database(url, "orchestrator")
                values = {"COXSWAIN_DATA_DIR": str(data_dir), "COXSWAIN_LOG_LEVEL": "WARNING"}
                if not sqlite:
                    values["COXSWAIN_DATABASE_URL"] = database_url
                for service in ("AUTH", "MODELS", "MEMORY", "ORCHESTRATOR", *(["TOOLS"] if tools else [])):
                    values[f"COXSWAIN_{service}_ADDRESS"] = harness.internal_address
                installation = Installation(harness, llm, database, {**os.environ, **QUICK, **values, **environment})
                try:
                    yield installation
                finally:
                    for worker in installation.workers:
                        if worker.process.returncode is None:
                            with contextlib.suppress(ProcessLookupError):
                                worker.send(signal.SIGCONT)
                                worker.kill()
                            await worker.process.wait()
                    await database.close()
        finally:
            del os.environ["OPENAI_API_KEY"], os.environ["OPENAI_BASE_URL"]

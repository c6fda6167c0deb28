"""The calls of one crew process whose surroundings are played."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import grpc

from coxswain.memory.v1 import memory_pb2, record_pb2
from coxswain.models.v1 import inference_pb2 as pb
from coxswain.orchestrator.worker.link_pb2 import CrewRequest, HostReply
from services.common.backoff import Backoff
from services.common.errors import CoxswainError
from services.common.grpc.status import DETAILS_KEY, to_status
from services.orchestrator.domain.execution import ModelWait, Usage
from services.orchestrator.domain.tool_usage import ToolUsageRecord
from services.orchestrator.worker.host.activity import Activity
from services.orchestrator.worker.host.crew_calls import CrewCalls
from services.orchestrator.worker.host.fenced_write import Fenced
from services.orchestrator.worker.host.memory_calls import MemoryCalls
from services.orchestrator.worker.host.model_calls import ModelCalls, TimeLimits
from services.orchestrator.worker.host.model_waits import ModelWaits, Patience
from services.orchestrator.worker.host.recorder import TaskRef
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.host.tool_calls import ToolCalls
from services.orchestrator.worker.host.tool_meter import ToolMeter
from services.orchestrator.worker.host.usage_total import UsageTotal

KNOWN = memory_pb2.Namespace(memory_id="handbook", kind=record_pb2.MEMORY_KIND_UNIFIED)
"""What the crew's knowledge names."""


def rpc_error(error: CoxswainError | None, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> grpc.aio.AioRpcError:
    """What a stub raises for an error another service explained, or (None) for its absence."""
    if error is None:
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
    code, status = to_status(error, "")
    details = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), details, details=status.message)


class Stream:
    """A streaming call."""

    def __init__(self, pieces: Sequence[Any]) -> None:
        self.pieces = pieces
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def cancel(self) -> None:
        self.cancelled = True


class Services:
    """The models and the memory service, answering from lists; what is an exception is raised."""

    def __init__(self) -> None:
        self.streams: list[Sequence[Any]] = []
        self.answers: list[Any] = []
        self.asked: list[Any] = []

    def StreamComplete(self, request: Any, timeout: float) -> Stream:
        self.asked.append(request)
        return Stream(self.streams.pop(0))

    async def _answer(self, request: Any) -> Any:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __getattr__(self, _: str) -> Any:
        return self._answer


class Recording:
    """Remembers what would be stored."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.tool_calls: list[ToolUsageRecord] = []
        self.chunks: list[str] = []
        self.commits = 0
        self.pruned: list[tuple[str, int]] = []
        self.last_sequence = 7
        self.stored = asyncio.Event()
        """Whether what was costly is stored; a test may clear it."""
        self.stored.set()

    def add(self, _: TaskRef, body: Any, *also_store: Any, call_id: str = "", flush_soon: bool = False) -> None:
        self.events.append(body)

    async def keep_costly(self) -> None:
        await self.stored.wait()

    def use(self, index: int, used: Any) -> None:
        pass

    def record_tool_call(self, call: ToolUsageRecord) -> None:
        self.tool_calls.append(call)

    def also_store(self, *changes: Any) -> None:
        pass

    def chunk(self, _: TaskRef, call_id: str, *, text: str = "", reasoning: str = "") -> None:
        self.chunks.append(text or reasoning)

    def prune_chunks(self, call_id: str, after_sequence: int) -> None:
        self.pruned.append((call_id, after_sequence))

    async def commit(self, events: Sequence[Any], *also_store: Any) -> None:
        self.commits += 1


class Principal:
    """Somebody."""

    async def act(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()


class VirtualTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.start = datetime(2026, 1, 1, tzinfo=UTC)
        self.seconds = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)


class World:
    """Calls of one crew process; `services` answers what they ask of other services."""

    def __init__(self) -> None:
        self.services = Services()
        self.recorder = Recording()
        self.usage = UsageTotal(Usage())
        self.journal = TaskJournal(TaskRef(0, "t", 1))
        stub, recorder, principal = (cast("Any", played) for played in (self.services, self.recorder, Principal()))
        self.time = VirtualTime()
        self.fenced = False
        """Whether another host has the execution by now."""
        self.activity = Activity()
        self.rests: list[Sequence[ModelWait]] = []
        self.waits = ModelWaits(
            (),
            Patience(total=60, slot=30, pauses=Backoff(1, 25, jitter=0)),
            recorder,
            self.activity,
            self.rests.append,
            clock=self.time.now,
            sleep=self.time.sleep,
        )
        models = ModelCalls(
            stub,
            recorder,
            principal,
            self.waits,
            retry_seconds=5,
            time_limits=TimeLimits(call=10, first_token=5),
            most_bytes=4 * 1024 * 1024,
            usage=self.usage,
            labels={"crew": "brief"},
        )
        memory = MemoryCalls(
            stub,
            principal,
            memory_id="crew",
            crew_name="brief",
            embedding_model="e",
            retry_seconds=5,
            confirm_claim=self._confirm_claim,
            knowledge=[KNOWN],
            near_copy_similarity=0.9375,
        )
        # Calls of tools that the gateway makes have tests of their own.
        remote = cast("Any", None)
        execution = cast(
            "Any", SimpleNamespace(id="e", group_id="sales", subject="dev|ann", crew_name="brief", labels={"team": "a"})
        )
        tools = ToolCalls("e", recorder, ToolMeter(execution, recorder, self.usage))
        self.calls = CrewCalls(models, memory, tools, remote, self.activity)
        self.calls.begin_task(0, self.journal)

    async def _confirm_claim(self) -> None:
        if self.fenced:
            raise Fenced("e")

    async def ask(self, **request: Any) -> HostReply:
        return await self.calls.serve(CrewRequest(**request))

    async def complete(
        self, completion: pb.Completion, agent_role: str = "Reader", occurrence: int = 0
    ) -> pb.CompleteResponse:
        asked = {"completion": completion, "agent_role": agent_role, "occurrence": occurrence}
        return (await self.ask(complete=asked)).complete

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.recorder.events]

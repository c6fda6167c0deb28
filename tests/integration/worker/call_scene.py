"""Hosts that make calls of tools for one execution: real rows, and a played gateway over real gRPC."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import grpc

from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.v1.tool_gateway_service_pb2_grpc import ToolGatewayServiceStub
from coxswain.orchestrator.worker.link_pb2 import CallTool, ToolAnswer
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.group_limits import NO_GROUP_LIMITS, GroupLimits
from services.common.schema_checks.checker import SchemaChecker
from services.orchestrator.domain.artifact import ArtifactLimits
from services.orchestrator.domain.question import Answer, Question, QuestionState
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.hints.bus import LocalHintBus
from services.orchestrator.repositories.journal import ToolCall, read_tool_calls
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.worker.host.agent_tools import AgentTools
from services.orchestrator.worker.host.call_questions import CallQuestions
from services.orchestrator.worker.host.chunk_pruner import ChunkPruner
from services.orchestrator.worker.host.current_tools import CurrentTools, SourceVersions
from services.orchestrator.worker.host.execution_files import ExecutionFiles
from services.orchestrator.worker.host.host_tools.base import HostTool
from services.orchestrator.worker.host.recorder import Recorder, TaskRef
from services.orchestrator.worker.host.remote_calls import RemoteCalls
from services.orchestrator.worker.host.run_store import Claim, RunStore
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.host.tool_executors import ToolExecutors
from services.orchestrator.worker.host.tool_gateway_client import ToolGateway
from services.orchestrator.worker.host.tool_meter import ToolMeter
from services.orchestrator.worker.host.tool_rules import ToolRules
from services.orchestrator.worker.host.usage_total import UsageTotal
from tests.integration.worker.rows import claimed, event_rows, queue
from tests.support.played_gateway import PlayedGateway

PAY = ResolvedTool(
    name="billing/pay",
    model_name="billing_pay",
    description="Pays.",
    arguments_schema={"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]},
    hash="h",
    config={},
    idempotent=False,
    source_id="s",
    cost=0.5,
)
LOOK = replace(PAY, name="billing/look", model_name="billing_look", idempotent=True)


class _Anybody:
    """A principal."""

    async def act(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()


@dataclass
class Hostlike:
    """What one host has of the execution."""

    remote: RemoteCalls
    recorder: Recorder
    journal: TaskJournal
    usage: UsageTotal
    meter: ToolMeter
    failures: list[BaseException]

    async def call(self, key: str = "k", tool: str = "0", **arguments: Any) -> ToolAnswer:
        """Make a call as a crew process asks for it."""
        request = CallTool(
            key=key, tool=tool, arguments_json=json.dumps(arguments or {"amount": 1}), agent_role="Clerk"
        )
        return await self.remote.call(self.journal, request)

    async def die(self) -> None:
        """Stop at once; whatever is being written is written, or not."""
        await self.remote.drop()
        await self.recorder.close()


class CallScene:
    """One execution whose hosts come and go."""

    def __init__(
        self, database: Database, gateway: PlayedGateway, channel: grpc.aio.Channel, checker: SchemaChecker
    ) -> None:
        self.database = database
        self.store = RunStore(database)
        self.gateway = gateway
        self.tools: list[ResolvedTool] = [PAY, LOOK]
        self.artifact_limits = ArtifactLimits(0, 0, 0, 0)
        self.host_tools: Callable[[Claim, Recorder], Mapping[str, HostTool]] = lambda *_: {}
        self.execution_id = ""
        self._channel = channel
        self._checker = checker
        self._hosts: list[Hostlike] = []

    async def host(self, *, retry_seconds: float = 5, **execution: Any) -> Hostlike:
        """Claim the execution, which takes it from the host before."""
        if not self.execution_id:
            self.execution_id = await queue(self.database, **execution)
        return await self._hostlike(await claimed(self.store, self.execution_id), retry_seconds)

    async def _hostlike(self, claim: Claim, retry_seconds: float) -> Hostlike:
        execution, failures = claim.execution, list[BaseException]()
        bus = LocalHintBus()
        recorder = Recorder(
            self.store,
            execution,
            interval=0.01,
            hints=bus,
            pruner=ChunkPruner(self.store, retention=60),
            on_failure=failures.append,
        )
        questions = CallQuestions(execution, recorder, bus)
        questions.know(await self.store.call_questions(execution.id))
        usage = UsageTotal(execution.usage, execution.limits, execution.used_before)
        meter = ToolMeter(execution, recorder, usage)
        gateway = ToolGateway(
            ToolGatewayServiceStub(self._channel),
            self._channel.channel_ready,
            cast("Any", _Anybody()),
            retry_seconds=retry_seconds,
        )
        remote = RemoteCalls(
            execution,
            ToolExecutors(gateway, self.host_tools(claim, recorder), self.files(claim, recorder)),
            recorder,
            meter,
            questions,
            ToolRules(execution.group_id, self._checker, lambda: self.store.calls_of_tools(execution.id)),
            CurrentTools(
                execution.group_id,
                SourceVersions(self.store.source_versions, known_seconds=0),
                lambda tool: self.store.resolved_tool(execution, tool),
            ),
            failures.append,
        )
        remote.use(AgentTools.of([self.tools]))
        journal = TaskJournal(TaskRef(0, "t", execution.epoch))
        remote.begin_attempt(journal)
        journal.tool_calls = await self.store.tool_calls(execution.id, 0)
        hostlike = Hostlike(remote, recorder, journal, usage, meter, failures)
        self._hosts.append(hostlike)
        return hostlike

    def files(self, claim: Claim, recorder: Recorder) -> ExecutionFiles:
        """The files of the execution, as one host knows them."""

        async def unlimited() -> GroupLimits:
            return NO_GROUP_LIMITS

        return ExecutionFiles(
            self.store,
            claim.execution,
            recorder,
            limits=self.artifact_limits,
            retry_seconds=0,
            limits_of_group=unlimited,
        )

    async def rows(self) -> dict[str, ToolCall]:
        """The calls in the journal, by their keys."""
        return await read_tool_calls(self.database, self.execution_id, 0)

    async def questions(self) -> list[Question]:
        """What people are asked about calls."""
        return await self.store.call_questions(self.execution_id)

    async def answer(self, question: Question, state: QuestionState, content: Any = None, reason: str = "") -> None:
        """Answer a question, as the API does."""
        async with self.database.write() as connection:
            await QuestionRepository(connection).answer(question, Answer(state, content, reason), "ann", utc_now())

    async def events(self, kind: str) -> list[Any]:
        """What happened, of one kind."""
        rows = await event_rows(self.database, self.execution_id)
        return [getattr(execution_pb2.ExecutionEvent.FromString(row.payload), kind) for row in rows if row.kind == kind]

    async def close(self) -> None:
        for hostlike in self._hosts:
            await hostlike.die()


@asynccontextmanager
async def call_scene(database: Database, checker: SchemaChecker) -> AsyncIterator[CallScene]:
    """Play a gateway for one execution."""
    async with PlayedGateway() as gateway, grpc.aio.insecure_channel(gateway.address) as channel:
        scene = CallScene(database, gateway, channel, checker)
        try:
            yield scene
        finally:
            await scene.close()

"""Opens crew processes of one run, with all that serves their calls."""

from dataclasses import dataclass
from datetime import timedelta

from coxswain.orchestrator.worker.link_pb2 import OpenSession
from services.common.background import BackgroundTasks
from services.common.clock import utc_now
from services.common.grpc.json_values import to_value
from services.orchestrator.domain.execution import ExecutionError
from services.orchestrator.domain.task_order import models_of
from services.orchestrator.domain.tool_sets import tool_sets
from services.orchestrator.messages.crews import spec_to_proto
from services.orchestrator.messages.knowledge import knowledge_namespace
from services.orchestrator.worker.host.activity import Activity
from services.orchestrator.worker.host.agent_tools import AgentTools, needed_tools, with_read_result
from services.orchestrator.worker.host.call_questions import CallQuestions
from services.orchestrator.worker.host.crew_calls import CrewCalls
from services.orchestrator.worker.host.crew_process import CrewProcess
from services.orchestrator.worker.host.current_tools import CurrentTools
from services.orchestrator.worker.host.execution_files import ExecutionFiles
from services.orchestrator.worker.host.execution_memory import ExecutionMemory
from services.orchestrator.worker.host.host_tools.catalogue import host_tools
from services.orchestrator.worker.host.model_calls import ModelCalls, TimeLimits
from services.orchestrator.worker.host.model_messages import ENVELOPE_BYTES
from services.orchestrator.worker.host.model_waits import ModelWaits, Patience
from services.orchestrator.worker.host.principals import ExecutionPrincipal
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.remote_calls import RemoteCalls
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_state import RunState
from services.orchestrator.worker.host.stop_signal import Failed, ModelsAway, StopSignal
from services.orchestrator.worker.host.tool_calls import ToolCalls
from services.orchestrator.worker.host.tool_executors import ToolExecutors
from services.orchestrator.worker.host.tool_gateway_client import ToolGateway
from services.orchestrator.worker.host.tool_meter import ToolMeter
from services.orchestrator.worker.host.tool_rules import ToolRules
from services.orchestrator.worker.link.host_end import CrewProcessLost


@dataclass(frozen=True, slots=True)
class Crew:
    """The crew process, and what serves its calls."""

    process: CrewProcess
    calls: CrewCalls


class CrewOpener:
    """Has crew processes forked. What goes wrong while their calls are served goes to `signal`."""

    def __init__(
        self,
        context: RunContext,
        state: RunState,
        recorder: Recorder,
        principal: ExecutionPrincipal,
        signal: StopSignal,
        files: ExecutionFiles,
    ) -> None:
        self._context = context
        self._state = state
        self._execution = state.execution
        self._recorder = recorder
        self._principal = principal
        self._signal = signal
        self.activity = Activity()
        """What is under way in the crew process."""
        self._waits = ModelWaits(
            state.execution.model_waits,
            Patience.of(context.settings),
            recorder,
            self.activity,
            lambda waits: signal.stop(ModelsAway(waits)),
        )
        self.questions = CallQuestions(state.execution, recorder, context.hints)
        """What calls of tools ask people."""
        execution_id = state.execution.id
        self._memory = ExecutionMemory(context, state, principal)
        gateway = ToolGateway(
            context.stubs.tools,
            context.stubs.tools_ready,
            principal,
            retry_seconds=context.settings.peer_retry_seconds,
        )
        self._meter = ToolMeter(state.execution, recorder, state.usage)
        self.remote = RemoteCalls(
            state.execution,
            ToolExecutors(gateway, host_tools(files, self._memory, self._read_result), files),
            recorder,
            self._meter,
            self.questions,
            ToolRules(
                state.execution.group_id,
                context.checker,
                lambda: context.read(lambda: context.store.calls_of_tools(execution_id)),
            ),
            CurrentTools(
                state.execution.group_id,
                context.sources,
                lambda tool: context.read(lambda: context.store.resolved_tool(state.execution, tool)),
            ),
            signal.fail,
        )
        """Calls of tools that the crew process does not make itself."""
        self._background = BackgroundTasks()

    async def close(self) -> None:
        """Prepare nothing more."""
        await self._background.stop()

    async def open(self) -> Crew:
        """Open a crew process that knows the crew.

        Raises:
            Failed: a task that is not done needs a tool that cannot be used.
            CrewProcessLost, ForkServerLost: it died, or could not be forked.
        """
        context, execution, spec = self._context, self._execution, self._state.spec
        tools = await self._agent_tools()
        self.remote.use(tools)
        models = await context.models.capabilities(models_of(spec), execution.group_id, self._principal)
        # The first model call would wait for it, when the crew is built.
        self._background.start(self._principal.prepare())
        retry_seconds = context.settings.peer_retry_seconds
        calls = CrewCalls(
            ModelCalls(
                context.stubs.inference,
                self._recorder,
                self._principal,
                self._waits,
                retry_seconds=retry_seconds,
                most_bytes=context.max_message_bytes - ENVELOPE_BYTES,
                time_limits=TimeLimits(context.settings.model_call_seconds, context.settings.model_first_byte_seconds),
                usage=self._state.usage,
                labels={"crew": spec.name},
            ),
            await self._memory.open([knowledge_namespace(memory) for memory in spec.knowledge_memories]),
            ToolCalls(execution.id, self._recorder, self._meter),
            self.remote,
            self.activity,
        )
        session = OpenSession(
            execution_id=execution.id,
            spec=spec_to_proto(spec),
            inputs={name: to_value(value) for name, value in execution.inputs.items()},
            models=models,
        )
        session.start_time.FromDatetime(execution.started_at or utc_now())
        if execution.deadline_at is not None:
            session.time_left.FromTimedelta(max(timedelta(), execution.deadline_at - utc_now()))
        tools.put_into(session)
        try:
            process = await self._opened(calls, session)
        except CrewProcessLost:
            # One that was forked ahead may have died before it knew of the crew; the crew has no part in that.
            process = await self._opened(calls, session, may_be_spare=False)
        return Crew(process, calls)

    async def _read_result(self, call_id: str) -> str | None:
        """Return the whole result of a tool call of this execution."""
        return await self._context.read(lambda: self._context.store.tool_result(self._execution.id, call_id))

    async def _agent_tools(self) -> AgentTools:
        """Return what the crew's tools are now.

        Raises:
            Failed: a task that is not done needs one that cannot be used.
        """
        context, spec = self._context, self._state.spec
        sets = tool_sets(spec)
        resolved = await context.read(lambda: context.store.resolved_tools(self._execution, sets))
        needed = needed_tools(spec, [task.state for task in self._state.tasks])
        for specs, tools in zip(sets, resolved, strict=True):
            for tool in tools if specs in needed else ():
                if tool.problem_reason:
                    raise Failed(ExecutionError(tool.problem_reason, tool.problem))
        return AgentTools.of([with_read_result(tools) for tools in resolved])

    async def _opened(self, calls: CrewCalls, session: OpenSession, *, may_be_spare: bool = True) -> CrewProcess:
        process = await self._context.fork_server.fork(calls.serve, self._signal.fail, may_be_spare=may_be_spare)
        try:
            await process.open_session(session)
        except BaseException:
            await process.kill()
            raise
        return process

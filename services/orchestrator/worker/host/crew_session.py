"""The crew process of one run: forked when it is needed, and again when it dies."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.worker.link_pb2 import EvaluateCondition, RunTask
from services.common.clock import utc_now
from services.common.tracing.spans import apart, within
from services.orchestrator.domain.crew import OnCutOff, Process
from services.orchestrator.domain.execution import PLAN_INDEX, ExecutionError, TaskOutput
from services.orchestrator.messages.executions import execution_to_proto, output_from_proto, output_to_proto
from services.orchestrator.placeholders import interpolate
from services.orchestrator.worker.host.crew_opener import Crew, CrewOpener
from services.orchestrator.worker.host.crew_process import CrewProcess, ForkServerLost
from services.orchestrator.worker.host.metrics import CREW_LOSSES
from services.orchestrator.worker.host.model_messages import ENVELOPE_BYTES
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_state import RunState, TaskProgress
from services.orchestrator.worker.host.stop_signal import Failed, TaskWaits
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.link.errors import WAITS_FOR_PERSON, TaskError
from services.orchestrator.worker.link.host_end import CrewProcessLost
from services.orchestrator.worker.link.limits import OUT_OF_MEMORY_STATUS

logger = structlog.get_logger(__name__)

T = TypeVar("T")

_MANAGER_ROLE = "Crew Manager"
_FORK_AGAIN_SECONDS = 1.0
_CONDITION_SECONDS = 60.0
"""Its steps are limited to what takes a second; a crew process that has no CPU may take longer."""


class CrewSession:
    """Has tasks done by a crew process, opened when the first one is due."""

    def __init__(self, context: RunContext, state: RunState, recorder: Recorder, opener: CrewOpener) -> None:
        self._context = context
        self._state = state
        self._execution = state.execution
        self._recorder = recorder
        self._opener = opener
        self.questions = self._opener.questions
        """What calls of tools ask people."""
        self._remote = self._opener.remote
        self._crew: Crew | None = None
        self._opening = asyncio.Lock()

    async def run_task(self, task: TaskProgress, request: RunTask) -> TaskOutput:
        """Have a task done, and return its output; again if the process dies of it.

        Raises:
            Failed: the task cannot be done.
            TaskWaits: a person has to be asked first.
        """

        async def run(process: CrewProcess) -> TaskOutput:
            request.attempt = task.attempt
            output = await process.run_task(task.index, request)
            self._require_readable(task, output.ByteSize())
            return output_from_proto(output)

        return await self._attempt(task, run)

    def _require_readable(self, task: TaskProgress, size: int) -> None:
        # The execution that it ends is told in one message, with its inputs.
        largest = self._context.max_message_bytes
        beside = execution_to_proto(self._execution).ByteSize() + ENVELOPE_BYTES
        most = max(0, min(largest * 3 // 4, largest - beside))
        if size > most:
            message = (
                f"the result has {size:,} bytes, its structured form included, and can have at most {most:,} beside "
                "the inputs; ask for less, have it stored in a file by tools, or have the operator raise "
                "COXSWAIN_MAX_MESSAGE_BYTES"
            )
            raise _failed(task, "ANSWER_TOO_LARGE", message)

    async def make_plan(self, plan: TaskProgress) -> dict[str, str]:
        """Return what the plan adds to each task's description, by the task's index; again if the process dies of it.

        Raises:
            Failed: the crew could not make a plan.
        """
        made = await self._attempt(plan, CrewProcess.make_plan)
        return {str(index): text for index, text in made.additions.items()}

    async def save_result(self, task: TaskProgress, result: TaskOutput) -> None:
        """Have a result that a person has approved saved to the crew's memory, if it has one.

        Raises:
            Failed: it cannot be saved.
        """
        if self._state.spec.memory.enabled:
            message = output_to_proto(result)
            await self._attempt(task, lambda process: process.save_result(task.index, message), self._journal)

    async def _attempt(
        self,
        task: TaskProgress,
        work: Callable[[CrewProcess], Awaitable[T]],
        begin: Callable[[TaskProgress], Awaitable[TaskJournal]] | None = None,
    ) -> T:
        cause = "unknown"
        for _ in range(self._context.settings.crew_process_attempts):
            journal = await (begin or self._begin)(task)
            crew: Crew | None = None
            # The task's name is the group's own text.
            attributes = {"coxswain.task.index": task.index, "coxswain.task.attempt": task.attempt}
            journal.span = apart("run task", attributes=attributes)
            try:
                with within(journal.span):
                    crew = await self._open()
                    crew.calls.begin_task(task.index, journal)
                    with self._opener.activity.task(task.index):
                        return await work(crew.process)
            except TaskError as error:
                if error.reason == WAITS_FOR_PERSON:
                    # Other calls of the task may be under way.
                    await self._remote.settled(task.index)
                    raise TaskWaits from error
                journal.span.fail("TASK_FAILED")
                raise _failed(task, error.reason, error.message) from error
            except CrewProcessLost as lost:
                journal.span.fail("CREW_PROCESS_LOST")
                cause = await self._lose(task, crew, lost)
            except ForkServerLost:
                journal.span.fail("CREW_PROCESS_LOST")
                cause = "fork server"
                await asyncio.sleep(_FORK_AGAIN_SECONDS)
            finally:
                journal.span.end()
        raise _failed(
            task,
            "TASK_FAILED",
            f"the process that ran the crew died {self._context.settings.crew_process_attempts} times "
            f"(the last time: {cause}); its host may be short of memory",
        )

    async def condition_holds(self, task: TaskProgress, request: EvaluateCondition) -> bool:
        """Return whether the condition of a task holds.

        Raises:
            Failed: that cannot be found out.
        """
        for _ in range(self._context.settings.crew_process_attempts):
            crew: Crew | None = None
            try:
                crew = await self._open()
                async with asyncio.timeout(_CONDITION_SECONDS):
                    return await crew.process.condition_holds(task.index, request)
            except TaskError as error:
                raise _failed(task, error.reason, error.message) from error
            except TimeoutError:
                await self._discard(crew)
                break
            except CrewProcessLost as lost:
                await self._lose(task, crew, lost)
            except ForkServerLost:
                await asyncio.sleep(_FORK_AGAIN_SECONDS)
        raise _failed(task, "TASK_FAILED", "the task's condition could not be evaluated in time; say it more simply")

    async def cancel_calls(self) -> None:
        """Take back the calls of tools that are being made: the execution is about to end."""
        await self._remote.cancel()

    async def close(self) -> None:
        """Prepare nothing more, and follow calls of tools no longer; they go on at the gateway."""
        await self._opener.close()
        await self._remote.drop()

    def let_end(self) -> None:
        """Let the crew process exit: all its tasks are done. `end` waits for it."""
        if self._crew is not None:
            self._crew.process.let_end()

    async def end(self, *, finished: bool) -> None:
        """End the crew process: let it exit when it is `finished`, else kill it."""
        if (crew := self._crew) is not None:
            await (crew.process.close() if finished else crew.process.kill())
            # Only now: who is stopped while it exits has it killed.
            self._crew = None

    async def _begin(self, task: TaskProgress) -> TaskJournal:
        """Begin an attempt at a task with what earlier ones have learnt."""
        task.attempt += 1
        attempt = task.attempt
        if task.is_plan:
            self._recorder.also_store(lambda write: write.start_plan(PLAN_INDEX, attempt, utc_now()))
        else:
            started = execution_pb2.TaskStarted(agent_role=self._role(task.index))
            self._recorder.add_with_next(
                task.ref, started, lambda write: write.tasks.start(task.index, attempt, utc_now())
            )
        # Nothing is known to a first attempt, which need not wait: nothing that it does is stored before its start.
        return await self._journal(task, is_new=attempt == 1 and not self._execution.resumed_from)

    async def _journal(self, task: TaskProgress, *, is_new: bool = False) -> TaskJournal:
        """Return what has been learnt for a task so far, by another host perhaps; nothing for one that `is_new`."""
        store, execution_id = self._context.store, self._execution.id
        journal = TaskJournal(
            task.ref,
            fails_if_cut_off=not task.is_plan and self._state.spec.tasks[task.index].on_cut_off is OnCutOff.FAIL,
            salt=task.declined.id if task.declined else "",
        )
        self._remote.begin_attempt(journal)
        if self._execution.epoch > 1:
            self.questions.know(await self._context.read(lambda: store.call_questions(execution_id)))
        if not is_new:
            # Only then is everything stored that the attempt before has learnt.
            await self._recorder.flush()
            journal.journaled_responses = await self._context.read(
                lambda: store.journaled_responses(execution_id, task.index)
            )
            stored = await self._context.read(lambda: store.tool_calls(execution_id, task.index))
            # What calls of the attempt before have told meanwhile is newer.
            journal.tool_calls = stored | journal.tool_calls
        return journal

    def _role(self, index: int) -> str:
        spec = self._state.spec
        name = spec.manager_agent if spec.process is Process.HIERARCHICAL else spec.tasks[index].agent
        roles = {agent.name: agent.role for agent in spec.agents}
        try:
            return interpolate(roles.get(name, _MANAGER_ROLE), self._execution.inputs)
        except KeyError:
            return roles[name]  # the crew process reports what is missing

    async def _open(self) -> Crew:
        async with self._opening:
            if self._crew is None:
                self._crew = await self._opener.open()
            return self._crew

    async def _lose(self, task: TaskProgress, crew: Crew | None, lost: CrewProcessLost) -> str:
        """Note that the process died of a task, and return why. Raises Failed if trying again would not help."""
        cause = _cause(lost.status)
        CREW_LOSSES.labels(cause).inc()
        logger.warning("crew_process_lost", execution_id=self._execution.id, task=task.index, cause=cause)
        await self._discard(crew)
        if lost.status == OUT_OF_MEMORY_STATUS:
            limit = self._context.settings.crew_limits.out_of_memory()
            raise _failed(task, limit.reason, limit.message) from lost
        return cause

    async def _discard(self, crew: Crew | None) -> None:
        if crew is not None and self._crew is crew:
            self._crew = None
            await crew.process.kill()


def _failed(task: TaskProgress, reason: str, message: str) -> Failed:
    return Failed(ExecutionError(reason, message, task.name), None if task.is_plan else task.index)


def _cause(status: int | None) -> str:
    """Return why a crew process has ended, in one of a few words."""
    if status is None:
        return "unknown"
    if status == OUT_OF_MEMORY_STATUS:
        return "memory"
    return signal.Signals(-status).name if status < 0 else "exit"

"""How tasks and executions end: with results, with an error, or by cancellation."""

from collections.abc import Awaitable, Callable

import grpc
import structlog
from google.protobuf.message import Message

from coxswain.auth.v1 import delegation_pb2
from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.errors import CoxswainError
from services.common.grpc.large_messages import beside_if_large
from services.common.tracing.spans import current_span
from services.orchestrator.artifact_contents import output_file_name, result_content
from services.orchestrator.domain.artifact import BadFileName
from services.orchestrator.domain.execution import ExecutionError, ExecutionState, Success, TaskOutput, TaskState
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.question import QuestionState
from services.orchestrator.events import error_to_proto
from services.orchestrator.messages.executions import output_to_proto, usage_to_proto
from services.orchestrator.worker.host.crew_session import CrewSession
from services.orchestrator.worker.host.execution_files import ExecutionFiles, FileRefused, NewFile
from services.orchestrator.worker.host.fenced_write import FencedWrite
from services.orchestrator.worker.host.recorder import Change, Recorder, TaskRef
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_state import RunState, TaskProgress
from services.orchestrator.worker.host.stop_signal import Failed

logger = structlog.get_logger(__name__)

_REVOKE_SECONDS = 5.0


class Completion:
    """Ends the tasks and the execution of one run. Each method raises Fenced when another host has the execution."""

    def __init__(
        self,
        context: RunContext,
        state: RunState,
        recorder: Recorder,
        files: ExecutionFiles,
        crew: CrewSession,
        on_rest: Callable[[], Awaitable[None]],
    ) -> None:
        """`on_rest` is told as soon as it is stored that the execution has ended."""
        self._context = context
        self._on_rest = on_rest
        self._files = files
        self._crew = crew
        self._state = state
        self._execution = state.execution
        self._recorder = recorder

    async def complete(self, task: TaskProgress, output: TaskOutput) -> bool:
        """Store a task's result, and the execution's with it if it was the last one; return whether it was.

        Raises:
            Failed: its file cannot be stored.
        """
        file = await self._file(task, output)
        task.state, task.output = TaskState.SUCCEEDED, output
        events: list[tuple[TaskRef, Message]] = [
            *(() if file is None else [(task.ref, file.event)]),
            (task.ref, execution_pb2.TaskCompleted(output=output_to_proto(output))),
        ]

        async def finish(write: FencedWrite) -> None:
            await write.tasks.finish(task.index, output, utc_now())

        changes = [finish] if file is None else [file.change, finish]
        if self._state.all_done:
            await self.succeed(events, *changes)
            return True
        await self._recorder.commit(events, *changes)
        return False

    async def _file(self, task: TaskProgress, output: TaskOutput) -> NewFile | None:
        """Return the file that a task's result is to be stored in, if it asks for one that is not there yet."""
        spec = self._state.spec.tasks[task.index]
        if not spec.output_file:
            return None
        try:
            name = output_file_name(spec, self._execution.inputs)
            content = await beside_if_large(len(output.text), result_content, output)
            stored = await self._files.prepare(task.ref, name, content)
        except (FileRefused, BadFileName) as error:
            # The next attempt gets the same answers without paying for them again.
            reason = error.reason if isinstance(error, FileRefused) else "ARTIFACT_NAME_CONFLICT"
            raise Failed(
                ExecutionError(reason, f"the result cannot be stored in the output_file: {error}", task.name),
                task.index,
            ) from error
        return stored if isinstance(stored, NewFile) else None

    async def skip(self, task: TaskProgress, condition: str) -> bool:
        """Store that a task is not done, and the end of the execution if it was the last one; return whether it was."""
        task.state = TaskState.SKIPPED
        skipped = (task.ref, execution_pb2.TaskSkipped(condition=condition))

        async def skip(write: FencedWrite) -> None:
            await write.tasks.skip(task.index, utc_now())

        if self._state.all_done:
            await self.succeed([skipped], skip)
            return True
        await self._recorder.commit([skipped], skip)
        return False

    async def succeed(self, events: list[tuple[TaskRef, Message]], *also_store: Change) -> None:
        """End the execution with the result of its last task, after other events and changes."""
        # It takes as long as storing the result does, and the slot is free after both.
        self._crew.let_end()
        result = self._state.result
        succeeded = execution_pb2.ExecutionSucceeded(
            result=None if result is None else output_to_proto(result), usage=usage_to_proto(self._state.usage.value)
        )
        await self._recorder.commit(
            [*events, (TaskRef(), succeeded)], *also_store, succeeded=Success(result, utc_now())
        )
        await self._ended(ExecutionState.SUCCEEDED)

    async def cancel(self) -> None:
        """End the execution because its cancellation was requested."""
        await self._end(ExecutionState.CANCELLED, None, [(TaskRef(), execution_pb2.ExecutionCancelled())])

    async def fail(self, error: ExecutionError, index: int | None) -> None:
        """End the execution with an error, of the task at an index or (None) of the whole."""
        message = error_to_proto(error)
        events: list[tuple[TaskRef, Message]] = [(TaskRef(), execution_pb2.ExecutionFailed(error=message))]
        changes: list[Change] = []
        if index is not None:
            failed = self._state.tasks[index]
            events.insert(0, (failed.ref, execution_pb2.TaskFailed(error=message)))
            changes.append(lambda write: write.tasks.fail(failed.index, error, utc_now()))
        await self._end(ExecutionState.FAILED, error, events, *changes)

    async def _end(
        self,
        state: ExecutionState,
        error: ExecutionError | None,
        events: list[tuple[TaskRef, Message]],
        *also_store: Change,
    ) -> None:
        # The run may have been stopped while its end was about to be stored: that one counts, and this one is refused.
        await self._recorder.flush()
        await self._recorder.commit(events, *also_store, lambda write: write.end(state, error, utc_now()))
        await self._ended(state, error.reason if error else "")

    async def _ended(self, state: ExecutionState, reason: str = "") -> None:
        logger.info("execution_ended", execution_id=self._execution.id, state=state, reason=reason)
        run = current_span()
        run.note("coxswain.execution.state", state)
        if reason:
            run.fail(reason)
        if any(_may_have_asked(task) for task in self._state.tasks):
            # They were closed with it.
            self._context.hints.publish(Hint(HintKind.QUESTIONS_CHANGED, self._execution.id))
        await self._on_rest()
        # Auth may take a while, and keeps no other execution waiting.
        await self._revoke()

    async def _revoke(self) -> None:
        """End the execution's right to act; where that fails, the API's housekeeping does it later."""
        request = delegation_pb2.RevokeDelegationRequest(execution_id=self._execution.id)
        try:
            await self._context.auth.RevokeDelegation(request, timeout=_REVOKE_SECONDS)
            self._context.store.note_revoked(self._execution.id)
        except (grpc.RpcError, CoxswainError) as error:
            logger.info("grant_not_revoked", execution_id=self._execution.id, error=type(error).__name__)


def _may_have_asked(task: TaskProgress) -> bool:
    """Return whether a task may have open questions, about its result or about calls of its tools."""
    result_asked = task.question is not None and task.question.state is QuestionState.OPEN
    return result_asked or task.state is TaskState.WAITING_FOR_ANSWER

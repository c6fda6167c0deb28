"""What an execution asks people, and what their answers make of its tasks."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from services.common.clock import utc_now
from services.common.ids import new_id
from services.orchestrator.domain.crew import ApprovalSpec
from services.orchestrator.domain.execution import ExecutionError, TaskOutput, TaskState
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.question import DEFAULT_TEXT, Question, QuestionKind, QuestionState
from services.orchestrator.messages.questions import raised_to_proto
from services.orchestrator.placeholders import interpolate
from services.orchestrator.worker.host.completion import Completion
from services.orchestrator.worker.host.crew_session import CrewSession
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_state import RunState, TaskProgress
from services.orchestrator.worker.host.stop_signal import Failed


class Questions:
    """Asks the questions of one run, and applies the answers."""

    def __init__(
        self, context: RunContext, state: RunState, recorder: Recorder, crew: CrewSession, completion: Completion
    ) -> None:
        self._context = context
        self._state = state
        self._recorder = recorder
        self._crew = crew
        self._completion = completion

    async def ask_for_approval(self, task: TaskProgress, output: TaskOutput) -> None:
        """Ask whether a task's result is good."""
        question = self._approval(task, output)
        await self._recorder.commit([(task.ref, raised_to_proto(question))], lambda write: write.ask(question))
        task.state, task.question = TaskState.WAITING_FOR_ANSWER, question
        self._context.hints.publish(Hint(HintKind.QUESTIONS_CHANGED, question.execution_id))

    def _approval(self, task: TaskProgress, output: TaskOutput) -> Question:
        execution, spec = self._state.execution, self._state.spec.tasks[task.index]
        approval = spec.approval or ApprovalSpec()
        now = utc_now()
        return Question(
            id=new_id(),
            kind=QuestionKind.RESULT_APPROVAL,
            state=QuestionState.OPEN,
            group_id=execution.group_id,
            execution_id=execution.id,
            crew_id=execution.crew_id,
            crew_name=execution.crew_name,
            task_index=task.index,
            task_name=task.name,
            attempt=task.attempt,
            text=_filled(approval.question, execution.inputs) or DEFAULT_TEXT,
            result=output,
            schema=spec.output_schema,
            role=approval.role,
            deadline_at=None if approval.deadline is None else now + timedelta(seconds=approval.deadline),
            on_deadline=approval.on_deadline,
            created_at=now,
        )

    async def wait(self, task: TaskProgress) -> None:
        """Let a task wait for what its calls of tools ask people."""
        await self._recorder.commit([], lambda write: write.tasks.wait_for_answer(task.index))
        task.state = TaskState.WAITING_FOR_ANSWER

    async def read(self) -> None:
        """Read the answers given since the execution was claimed."""
        store, execution_id = self._context.store, self._state.execution.id
        questions = await self._context.read(lambda: store.questions(execution_id))
        for index, question in questions.items():
            self._state.tasks[index].question = question

    async def _calls_wait(self, task: TaskProgress) -> bool:
        """Return whether calls of a task's tools wait for people, and no answer is there to go on with."""
        store, execution_id = self._context.store, self._state.execution.id
        questions = self._crew.questions
        questions.know(await self._context.read(lambda: store.call_questions(execution_id)))
        if not questions.any_open(task.index):
            return False
        calls = await self._context.read(lambda: store.tool_calls(execution_id, task.index))
        return not questions.any_to_use(task.index, {key for key, call in calls.items() if call.state.ended})

    async def apply(self) -> bool:
        """Complete tasks whose results were accepted, and let those whose results were declined start again.

        Return whether the execution has ended with that.

        Raises:
            Failed: nobody has answered in time, or the crew's memory does not take an accepted result.
        """
        for task in self._state.tasks:
            if task.state is not TaskState.WAITING_FOR_ANSWER:
                continue
            question = task.question
            if (question is None or question.state is not QuestionState.OPEN) and await self._calls_wait(task):
                continue
            if question is None:
                task.state = TaskState.PENDING
            elif question.state is QuestionState.ACCEPTED:
                if await self._accept(task, question.approved_result):
                    return True
            elif question.state is QuestionState.DECLINED:
                if question.expired:
                    raise _expired(question)
                task.state = TaskState.PENDING
        return False

    async def _accept(self, task: TaskProgress, result: TaskOutput) -> bool:
        await self._crew.save_result(task, result)
        return await self._completion.complete(task, result)


def _expired(question: Question) -> Failed:
    return Failed(
        ExecutionError(
            "QUESTION_EXPIRED",
            f'nobody answered "{question.text}" until its deadline; resume the execution to have the task done and '
            "asked about again",
            question.task_name,
        ),
        question.task_index,
    )


def _filled(question: str, inputs: Mapping[str, Any]) -> str:
    try:
        return interpolate(question, inputs)
    except KeyError:
        return question  # started by a release that did not ask for this input

"""What calls of tools ask people, and what has been answered."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from services.common.clock import utc_now
from services.common.identity.principal import Role
from services.common.ids import new_id
from services.orchestrator.domain.crew import OnDeadline
from services.orchestrator.domain.execution import Execution
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.question import Question, QuestionedCall, QuestionKind, QuestionState
from services.orchestrator.domain.tool_question import Decision, approval_of
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.messages.questions import raised_to_proto
from services.orchestrator.worker.host.recorder import Change, Recorder
from services.orchestrator.worker.host.recorder import TaskRef as EventOf
from services.orchestrator.worker.host.task_journal import TaskJournal


class CallQuestions:
    """The questions about calls of one execution, as far as this run knows them."""

    def __init__(self, execution: Execution, recorder: Recorder, hints: HintBus) -> None:
        self._execution = execution
        self._recorder = recorder
        self._hints = hints
        self._questions: dict[str, Question] = {}

    def know(self, questions: Sequence[Question]) -> None:
        """Take over what has been read of them."""
        self._questions |= {question.id: question for question in questions}

    def find(
        self,
        kind: QuestionKind,
        index: int,
        key: str,
        *,
        round: int = 0,  # noqa: A002 - its name everywhere
        asked: tuple[str, Mapping[str, Any] | None, str] | None = None,
        source_key: str = "",
    ) -> Question | None:
        """Return the newest question of a call of a task; with `asked`, that of this text, schema and URL.

        Where both have a `source_key`, that counts and not what is asked: earlier releases kept questions without one.
        """
        for question in sorted(self._questions.values(), key=lambda known: known.id, reverse=True):
            about = question.call
            if (
                about is not None
                and (question.kind, question.task_index, about.key, about.round) == (kind, index, key, round)
                and (
                    about.source_key == source_key
                    if about.source_key and source_key
                    else asked in (None, (question.text, question.schema, about.url))
                )
            ):
                return question
        return None

    def remembered(self, tool: str) -> bool:
        """Whether a person has approved all calls of a tool in this execution."""
        return any(
            question.kind is QuestionKind.TOOL_APPROVAL
            and question.call is not None
            and question.call.tool == tool
            and (approval := approval_of(question)) is not None
            # Who refused or changed one call has approved no other.
            and approval.decision is Decision.CALL
            and approval.remember
            for question in self._questions.values()
        )

    def any_open(self, index: int) -> bool:
        """Whether a question of a task's calls is open."""
        return any(
            question.task_index == index and question.state is QuestionState.OPEN
            for question in self._questions.values()
        )

    def any_to_use(self, index: int, ended: Collection[str]) -> bool:
        """Whether a question of a task is answered whose call is not among those that have `ended`, by their keys."""
        return any(
            question.task_index == index
            and question.state is not QuestionState.OPEN
            and question.call is not None
            and question.call.key not in ended
            for question in self._questions.values()
        )

    async def ask(
        self,
        journal: TaskJournal,
        kind: QuestionKind,
        call: QuestionedCall,
        text: str,
        schema: Mapping[str, Any] | None,
        events: Sequence[tuple[EventOf, Any]] = (),
        *also_store: Change,
        deadline: float | None = None,
        on_deadline: OnDeadline = OnDeadline.DECLINE,
    ) -> None:
        """Ask people, in one transaction with other events and changes; `deadline` is in seconds from now."""
        execution, now = self._execution, utc_now()
        question = Question(
            id=new_id(),
            kind=kind,
            state=QuestionState.OPEN,
            group_id=execution.group_id,
            execution_id=execution.id,
            crew_id=execution.crew_id,
            crew_name=execution.crew_name,
            task_index=journal.index,
            task_name=journal.task.task_name,
            attempt=journal.task.attempt,
            text=text,
            result=None,
            schema=None if schema is None else dict(schema),
            role=Role.EDITOR,
            deadline_at=None if deadline is None else now + timedelta(seconds=deadline),
            on_deadline=on_deadline,
            created_at=now,
            call=call,
        )
        await self._recorder.commit(
            [*events, (journal.task, raised_to_proto(question))],
            *also_store,
            lambda write: write.ask_about_call(question),
        )
        self._questions[question.id] = question
        self._hints.publish(Hint(HintKind.QUESTIONS_CHANGED, execution.id))

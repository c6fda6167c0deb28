"""What people decide about calls of tools: whether they are made, and what has become of those that nobody knows of."""

from collections.abc import Sequence
from dataclasses import replace

from google.protobuf.message import Message

from services.common.storable import storable
from services.orchestrator.domain.question import QuestionKind, QuestionState
from services.orchestrator.domain.tool_question import (
    OUTCOME_SCHEMA,
    Approval,
    Decision,
    approval_of,
    approval_schema,
    found_result,
)
from services.orchestrator.repositories.journal import ToolCall
from services.orchestrator.worker.host.call_outcomes import ended_by_person, waits_for_person
from services.orchestrator.worker.host.call_questions import CallQuestions
from services.orchestrator.worker.host.recorder import Change, TaskRef
from services.orchestrator.worker.host.remote_call import RemoteCall


class CallDecisions:
    """Asks people about calls, and reads their answers."""

    def __init__(self, questions: CallQuestions) -> None:
        self._questions = questions

    async def approval(self, call: RemoteCall) -> Approval:
        """Return what a person has decided about a call that has to be approved; ask first.

        Raises:
            TaskError: WAITS_FOR_PERSON, nobody has answered yet.
        """
        question = self._questions.find(QuestionKind.TOOL_APPROVAL, *call.key)
        if question is not None and (approval := approval_of(question)) is not None:
            return approval
        if question is None:
            if self._questions.remembered(call.tool.name):
                return Approval(Decision.CALL)
            await self._questions.ask(
                call.journal,
                QuestionKind.TOOL_APPROVAL,
                call.questioned(call.to_approve()),
                f'May the tool "{call.tool.name}" be called with these arguments?',
                approval_schema(call.tool.arguments_schema),
                deadline=call.tool.approval_deadline,
                on_deadline=call.tool.approval_on_deadline,
            )
        raise waits_for_person()

    def words(self, call: RemoteCall) -> str:
        """Return what the model is told of the approval of a call; empty when there is nothing to tell."""
        question = self._questions.find(QuestionKind.TOOL_APPROVAL, *call.key)
        approval = None if question is None else approval_of(question)
        if approval is None:
            return ""
        said = f" and said: {storable(approval.feedback)}" if approval.feedback else ""
        if approval.decision is Decision.CALL_EDITED:
            return f"[A person changed the arguments of this call to {approval.arguments}{said}]\n"
        return f"[A person approved this call{said}]\n" if said else ""

    async def ask_what_happened(
        self, call: RemoteCall, unknown: ToolCall, events: Sequence[tuple[TaskRef, Message]] = (), *also_store: Change
    ) -> None:
        """Ask what has become of a call of unknown outcome, in one transaction with other events and changes."""
        await self._questions.ask(
            call.journal,
            QuestionKind.OUTCOME_UNKNOWN,
            replace(call.questioned(unknown), observation=unknown.error, begun_at=unknown.intended_at),
            f'Has this call of "{unknown.tool}" taken effect? It is not known, and it must not be made twice.',
            OUTCOME_SCHEMA,
            events,
            *also_store,
            # Then nobody has said anything, which ends the task: neither a result nor another call may be guessed.
            deadline=call.tool.outcome_deadline,
        )

    async def what_happened(self, call: RemoteCall, unknown: ToolCall) -> str | None:
        """Return the result that a person has found out of a call of unknown outcome; None: it had no effect.

        Raises:
            TaskError: nobody has answered yet (WAITS_FOR_PERSON), or a person has ended the task.
        """
        question = self._questions.find(QuestionKind.OUTCOME_UNKNOWN, *call.key, round=unknown.round)
        if question is None:
            # It came along from an execution that this one continues.
            await self.ask_what_happened(call, unknown)
            raise waits_for_person()
        if question.answer is None or question.state is QuestionState.CANCELLED:
            raise waits_for_person()
        if question.state is QuestionState.DECLINED:
            raise ended_by_person(unknown, question)
        return found_result(question.answer)

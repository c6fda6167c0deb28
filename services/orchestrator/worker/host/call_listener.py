"""What a call shows while it is being made: progress becomes events, questions go to people."""

import asyncio
from dataclasses import replace

from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.grpc.json_values import from_struct
from services.common.storable import storable
from services.orchestrator.domain.question import QuestionedCall, QuestionKind, QuestionState
from services.orchestrator.worker.host.call_questions import CallQuestions
from services.orchestrator.worker.host.recorder import Recorder, TaskRef
from services.orchestrator.worker.host.task_journal import TaskJournal

_BETWEEN_SECONDS = 0.25
_MOST_TOLD = 4096
_ACTIONS = {QuestionState.ACCEPTED: "accept", QuestionState.DECLINED: "decline", QuestionState.CANCELLED: "cancel"}


class Listener:
    """Follows one call."""

    def __init__(
        self, recorder: Recorder, questions: CallQuestions, journal: TaskJournal, about: QuestionedCall
    ) -> None:
        self._recorder = recorder
        self._questions = questions
        self._journal = journal
        self._about = about
        self._last_told = -_BETWEEN_SECONDS
        self._held: pb.ToolProgress | None = None

    @property
    def task(self) -> TaskRef:
        """The attempt at a task that the call belongs to."""
        return self._journal.task

    @property
    def agent_role(self) -> str:
        """The role of the agent that calls, inputs filled in."""
        return self._about.agent_role

    async def progress(self, progress: pb.ToolProgress) -> None:
        """Tell of progress, unless the last time was a moment ago."""
        self._held = progress
        now = asyncio.get_running_loop().time()
        if now - self._last_told >= _BETWEEN_SECONDS:
            self._last_told = now
            self.flush()

    def flush(self) -> None:
        """Tell of the last progress, if that was held back."""
        held, self._held = self._held, None
        if held is not None:
            event = execution_pb2.ToolCallProgress(
                call_id=self._about.call_id,
                tool_name=self._about.tool,
                text=storable(held.text)[:_MOST_TOLD],
                fraction=held.fraction if held.HasField("fraction") else None,
            )
            self._recorder.add(self._journal.task, event)

    async def ask(self, question: pb.SourceQuestion) -> pb.AnswerSourceQuestionRequest | None:
        """Return a person's answer to a question of the source; ask, and return None, while there is none."""
        kind = QuestionKind.URL if question.url else QuestionKind.FORM
        about = replace(self._about, url=_harmless(question.url)[:_MOST_TOLD], source_key=question.key)
        text = _harmless(question.text)[:_MOST_TOLD]
        schema = None if question.url else from_struct("schema", question.schema) or {"type": "object"}
        # By what it asks: a call that starts over at its source asks the same under any number.
        known = self._questions.find(
            kind,
            self._journal.index,
            about.key,
            round=about.round,
            asked=(text, schema, about.url),
            source_key=question.key,
        )
        if known is None:
            await self._questions.ask(self._journal, kind, about, text, schema)
            return None
        if known.answer is None:
            return None
        answer = pb.AnswerSourceQuestionRequest(
            call_id=about.call_id, number=question.number, action=_ACTIONS[known.answer.state]
        )
        if isinstance(known.answer.content, dict):
            answer.content.update(known.answer.content)
        return answer


def _harmless(text: str) -> str:
    """Return a source's words without what could make them look like somebody else's."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")

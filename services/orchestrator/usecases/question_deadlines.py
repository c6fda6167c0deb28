"""Questions that nobody has answered in time."""

from collections.abc import Collection, Mapping

from services.common.db.database import Database
from services.orchestrator.domain.crew import OnDeadline
from services.orchestrator.domain.question import Answer, Question, QuestionState
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.usecases.execution_starter import existing_execution
from services.orchestrator.usecases.question_settler import QuestionSettler

DEADLINE_ANSWERS: Mapping[OnDeadline, Answer] = {
    OnDeadline.DECLINE: Answer(QuestionState.DECLINED, reason="nobody answered until the deadline"),
    OnDeadline.CANCEL: Answer(QuestionState.CANCELLED),
    OnDeadline.ACCEPT_DEFAULT: Answer(QuestionState.ACCEPTED),
}
"""What is answered in place of people."""


class QuestionDeadlines:
    """Answers questions at their deadlines. Replicas may do it at once."""

    def __init__(self, database: Database, settler: QuestionSettler) -> None:
        self._database = database
        self._settler = settler

    async def answer(self, overdue: Collection[Question]) -> None:
        """Answer questions whose time is up."""
        for question in overdue:
            await self._answer(question)

    async def _answer(self, question: Question) -> None:
        answer = DEADLINE_ANSWERS[question.on_deadline]
        async with self._database.write() as connection:
            execution = await ExecutionRepository(connection).lock(question.execution_id)
            current = await QuestionRepository(connection).get(question.group_id, question.id)
            # A person, or another replica, may have been faster.
            if execution is None or current is None or current.state is not QuestionState.OPEN:
                return
            await self._settler.settle(connection, execution, current, answer, "")
            changed = await existing_execution(connection, question.group_id, execution.id)
        await self._settler.announce(changed, answer)

"""What becomes of a question's execution with the answer."""

from sqlalchemy.ext.asyncio import AsyncConnection

from coxswain.orchestrator.v1 import execution_pb2, question_state_pb2
from services.common.clock import utc_now
from services.common.grpc.enums import enum_to_proto
from services.orchestrator.domain.execution import Execution, ExecutionState
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.question import Answer, Question, QuestionState
from services.orchestrator.events import new_event
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.usecases.execution_ender import ExecutionEnder


class QuestionSettler:
    """Stores answers, and wakes or cancels the executions that asked."""

    def __init__(self, ender: ExecutionEnder, bus: HintBus) -> None:
        self._ender = ender
        self._bus = bus

    async def settle(
        self, connection: AsyncConnection, execution: Execution, question: Question, answer: Answer, subject: str
    ) -> None:
        """Store the answer to an open question of a locked execution; no subject means the question's deadline.

        Call `announce` after the transaction.
        """
        await EventRepository(connection).append(
            execution.id,
            [
                new_event(
                    _answered(question, answer, subject),
                    task_index=question.task_index,
                    task_name=question.task_name,
                    attempt=question.attempt,
                )
            ],
        )
        await QuestionRepository(connection).answer(question, answer, subject, utc_now())
        if answer.state is QuestionState.CANCELLED:
            await self._ender.cancel(connection, execution)
        elif execution.state is ExecutionState.WAITING_FOR_ANSWER:
            await ExecutionRepository(connection).wake(execution.id)

    async def announce(self, execution: Execution, answer: Answer) -> None:
        """Send the hints that go with an answer, for the execution as it was left."""
        self._bus.publish(Hint(HintKind.QUESTIONS_CHANGED, execution.id))
        if answer.state is QuestionState.CANCELLED:
            await self._ender.announce_cancel(execution)
        self._bus.publish(Hint(HintKind.EVENTS_STORED, execution.id, execution.last_sequence, execution.group_id))
        if execution.ready:
            self._bus.publish(Hint(HintKind.EXECUTION_READY, execution.id))


def _answered(question: Question, answer: Answer, subject: str) -> execution_pb2.QuestionAnswered:
    return execution_pb2.QuestionAnswered(
        question_id=question.id,
        state=enum_to_proto(question_state_pb2.QuestionState, answer.state),
        subject=subject,
        edited=answer.content is not None,
        decline_reason=answer.reason,
    )

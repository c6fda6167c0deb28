"""Approvals of the release before, which does not know questions. To be removed with the table, one release later.

While both releases run, replicas and hosts of the earlier one still write `approvals` and their own name of the
state. Here each such approval becomes a question, with the answer if it has one. It is void to the earlier release
from then on, and the state that this release writes keeps the hosts of the earlier one from running the execution.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.identity.principal import Role
from services.orchestrator.domain.crew import OnDeadline
from services.orchestrator.domain.document import from_document
from services.orchestrator.domain.execution import EARLIER_WAITING_FOR_ANSWER, ExecutionState, TaskOutput, TaskState
from services.orchestrator.domain.question import DEFAULT_TEXT, Answer, Question, QuestionKind, QuestionState
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.tables import approvals, executions, questions, task_runs

_STATES: Mapping[str, QuestionState] = {
    "PENDING": QuestionState.OPEN,
    "APPROVED": QuestionState.ACCEPTED,
    "REFUSED": QuestionState.DECLINED,
}


class EarlierApprovals:
    """Approvals of the release before, as questions."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def waiting(self, limit: int) -> list[str]:
        """Return the ids of executions that wait for an approval of the release before."""
        rows = await self._connection.execute(
            select(executions.c.id).where(executions.c.state == EARLIER_WAITING_FOR_ANSWER).limit(limit)
        )
        return list(rows.scalars())

    async def adopt(self, execution_id: str) -> bool:
        """Make questions of the approvals of a locked execution; return whether there were any."""
        known = exists().where(questions.c.id == approvals.c.id)
        rows = await self._connection.execute(
            select(approvals, executions.c.crew_id, executions.c.crew_name)
            .join(executions, executions.c.id == approvals.c.execution_id)
            .where(approvals.c.execution_id == execution_id, approvals.c.state.in_(_STATES), ~known)
            .order_by(approvals.c.id)
        )
        adopted = [_question(row) for row in rows]
        for question in adopted:
            await QuestionRepository(self._connection).insert(question)
        if adopted:
            await self._take_over(execution_id)
        return bool(adopted)

    async def _take_over(self, execution_id: str) -> None:
        changes = (
            (approvals, approvals.c.execution_id, "PENDING", "VOID"),
            (executions, executions.c.id, EARLIER_WAITING_FOR_ANSWER, ExecutionState.WAITING_FOR_ANSWER),
            (task_runs, task_runs.c.execution_id, EARLIER_WAITING_FOR_ANSWER, TaskState.WAITING_FOR_ANSWER),
        )
        for table, column, earlier, state in changes:
            await self._connection.execute(
                update(table).where(column == execution_id, table.c.state == earlier).values(state=state)
            )


def _question(row: Any) -> Question:
    state = _STATES[row.state]
    return Question(
        id=row.id,
        kind=QuestionKind.RESULT_APPROVAL,
        state=state,
        group_id=row.group_id,
        execution_id=row.execution_id,
        crew_id=row.crew_id,
        crew_name=row.crew_name,
        task_index=row.task_index,
        task_name=row.task_name,
        attempt=row.attempt,
        text=DEFAULT_TEXT,
        result=from_document(TaskOutput, row.output),
        schema=None,
        role=Role.EDITOR,
        deadline_at=None,
        on_deadline=OnDeadline.DECLINE,
        created_at=row.requested_at,
        answer=None if state is QuestionState.OPEN else Answer(state, reason=row.feedback),
        answered_by=row.answered_by,
        answered_at=row.answered_at,
    )

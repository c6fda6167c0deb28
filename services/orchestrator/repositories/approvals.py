"""Approvals in SQL."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.approval import Approval, ApprovalState
from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.domain.execution import TaskOutput
from services.orchestrator.tables import approvals


class ApprovalRepository:
    """Results that wait, or waited, for a person."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, group_id: str, approval_id: str) -> Approval | None:
        """Return an approval of a group."""
        row = (
            await self._connection.execute(
                select(approvals).where(approvals.c.group_id == group_id, approvals.c.id == approval_id)
            )
        ).first()
        return None if row is None else to_approval(row)

    async def insert(self, approval: Approval) -> None:
        """Store a question to a person."""
        await self._connection.execute(
            insert(approvals).values(
                id=approval.id,
                execution_id=approval.execution_id,
                group_id=approval.group_id,
                task_index=approval.task_index,
                task_name=approval.task_name,
                attempt=approval.attempt,
                state=approval.state,
                output=to_document(approval.output),
                feedback="",
                answered_by="",
                requested_at=approval.requested_at,
            )
        )

    async def newest(self, execution_id: str) -> dict[int, Approval]:
        """Return the newest approval of each task of an execution that has one, by the task's index."""
        rows = await self._connection.execute(
            select(approvals).where(approvals.c.execution_id == execution_id).order_by(approvals.c.id)
        )
        return {row.task_index: to_approval(row) for row in rows}

    async def any_pending(self, execution_id: str) -> bool:
        """Return whether a person still has to answer."""
        pending = exists().where(approvals.c.execution_id == execution_id, approvals.c.state == ApprovalState.PENDING)
        return bool((await self._connection.execute(select(pending))).scalar_one())

    async def answer(self, approval_id: str, state: ApprovalState, feedback: str, subject: str, at: datetime) -> None:
        """Store the answer to an approval whose execution is locked."""
        await self._connection.execute(
            update(approvals)
            .where(approvals.c.id == approval_id)
            .values(state=state, feedback=feedback, answered_by=subject, answered_at=at)
        )


def to_approval(row: Row[Any]) -> Approval:
    """Return the approval of a row of `approvals`."""
    return Approval(
        id=row.id,
        execution_id=row.execution_id,
        group_id=row.group_id,
        task_index=row.task_index,
        task_name=row.task_name,
        attempt=row.attempt,
        state=ApprovalState(row.state),
        output=from_document(TaskOutput, row.output),
        feedback=row.feedback,
        answered_by=row.answered_by,
        requested_at=row.requested_at,
        answered_at=row.answered_at,
    )

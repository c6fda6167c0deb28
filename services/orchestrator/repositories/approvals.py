"""Approvals in SQL."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.approval import Approval, ApprovalState
from services.orchestrator.domain.document import from_document
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

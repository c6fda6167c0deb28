"""Keep what executions ask people as questions instead of approvals.

Hosts and replicas of the release before may still run. The table `approvals` stays for them until the next release;
what they write into it becomes a question when this release comes across it. Approvals that wait now are void to
them, so that each is answered once, and by whoever reads questions. Executions that wait have a state they do not
know: a host of theirs that comes across one of these takes nothing, and leaves it to the hosts of this release; a
replica of theirs answers INTERNAL when it is asked for one. Replace replicas of the API first, then hosts.

Revision ID: 0014
Revises: 0013
"""

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument, UtcDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_BATCH = 500
_QUESTION_STATES = {"PENDING": "OPEN", "APPROVED": "ACCEPTED", "REFUSED": "DECLINED", "VOID": "CLOSED"}
_APPROVAL_STATES = {"OPEN": "PENDING", "ACCEPTED": "APPROVED", "DECLINED": "REFUSED"}
_EDITOR = 3

_shared = (
    "id",
    "execution_id",
    "group_id",
    "task_index",
    "task_name",
    "attempt",
    "state",
    "answered_by",
)
approvals = sa.table(
    "approvals",
    *map(sa.column, (*_shared, "feedback")),
    sa.column("output", JsonDocument()),
    sa.column("requested_at", UtcDateTime()),
    sa.column("answered_at", UtcDateTime()),
)
questions = sa.table(
    "questions",
    *map(sa.column, (*_shared, "crew_id", "crew_name", "kind", "text", "role", "on_deadline")),
    sa.column("content", JsonDocument()),
    sa.column("answer", JsonDocument()),
    sa.column("created_at", UtcDateTime()),
    sa.column("answered_at", UtcDateTime()),
)
executions = sa.table("executions", *map(sa.column, ("id", "state", "crew_id", "crew_name")))
task_runs = sa.table("task_runs", sa.column("state"))
inboxes = sa.table("question_inboxes", *map(sa.column, ("group_id", "last_sequence")))
changes = sa.table("question_changes", *map(sa.column, ("group_id", "sequence", "question_id", "state")))


def upgrade() -> None:
    """Create the tables, and carry all approvals over."""
    op.create_table(
        "questions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("crew_id", sa.String(length=64), nullable=False),
        sa.Column("crew_name", sa.String(length=256), nullable=False),
        sa.Column("task_index", sa.Integer(), nullable=False),
        sa.Column("task_name", sa.String(length=128), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("content", JsonDocument(), nullable=False),
        sa.Column("schema", JsonDocument(), nullable=True),
        sa.Column("role", sa.Integer(), nullable=False),
        sa.Column("deadline_at", UtcDateTime(), nullable=True),
        sa.Column("on_deadline", sa.String(length=32), nullable=False),
        sa.Column("answer", JsonDocument(), nullable=True),
        sa.Column("answered_by", sa.String(length=512), nullable=False),
        sa.Column("answered_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name=op.f("fk_questions_execution_id_executions"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_questions")),
    )
    for columns in (
        ("execution_id", "task_index"),
        ("group_id", "id"),
        ("group_id", "state", "id"),
        ("group_id", "crew_id", "id"),
        ("state", "deadline_at"),
    ):
        op.create_index(f"ix_questions_{'_'.join(columns)}", "questions", list(columns), unique=False)
    op.create_table(
        "question_inboxes",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_question_inboxes")),
    )
    op.create_table(
        "question_changes",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("question_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["question_id"],
            ["questions.id"],
            name=op.f("fk_question_changes_question_id_questions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("group_id", "sequence", name=op.f("pk_question_changes")),
    )
    op.create_index("ix_question_changes_question_id", "question_changes", ["question_id"], unique=False)
    _carry_over()
    op.execute(sa.update(approvals).where(approvals.c.state == "PENDING").values(state="VOID"))
    _rename_state("WAITING_FOR_APPROVAL", "WAITING_FOR_ANSWER")


def downgrade() -> None:
    """Turn questions back into approvals; answers keep their edits."""
    _rename_state("WAITING_FOR_ANSWER", "WAITING_FOR_APPROVAL")
    op.execute(sa.delete(approvals).where(approvals.c.id.in_(sa.select(questions.c.id))))
    for rows in _batches(sa.select(questions).order_by(questions.c.id)):
        op.bulk_insert(approvals, [_approval(row) for row in rows])
    for table in ("question_changes", "question_inboxes", "questions"):
        op.drop_table(table)


def _rename_state(earlier: str, later: str) -> None:
    for table in (executions, task_runs):
        op.execute(sa.update(table).where(table.c.state == earlier).values(state=later))


def _carry_over() -> None:
    sequences: dict[str, int] = {}
    crews = (executions.c.crew_id, executions.c.crew_name)
    query = sa.select(approvals, *crews).join_from(approvals, executions, executions.c.id == approvals.c.execution_id)
    for rows in _batches(query.order_by(approvals.c.id)):
        op.bulk_insert(questions, [_question(row) for row in rows])
        asked = []
        for row in rows:
            if row.state == "PENDING":
                sequence = sequences[row.group_id] = sequences.get(row.group_id, 0) + 1
                asked.append({"group_id": row.group_id, "sequence": sequence, "question_id": row.id, "state": "OPEN"})
        op.bulk_insert(changes, asked)
    op.bulk_insert(inboxes, [{"group_id": group, "last_sequence": last} for group, last in sequences.items()])


def _batches(query: Any) -> Iterable[Any]:
    yield from op.get_bind().execute(query).partitions(_BATCH)


def _question(row: Any) -> dict[str, Any]:
    state = _QUESTION_STATES[row.state]
    answer = {"state": state, "content": None, "reason": row.feedback}
    return {name: getattr(row, name) for name in (*_shared, "crew_id", "crew_name", "answered_at")} | {
        "kind": "RESULT_APPROVAL",
        "state": state,
        "text": "Is this result good?",
        "content": row.output,
        "role": _EDITOR,
        "on_deadline": "DECLINE",
        "answer": answer if row.answered_at else None,
        "created_at": row.requested_at,
    }


def _approval(row: Any) -> dict[str, Any]:
    answer = row.answer or {}
    edited = answer.get("content")
    output = row.content
    if edited is not None:
        text, structured = (edited, None) if isinstance(edited, str) else (json.dumps(edited), edited)
        output = output | {"text": text, "structured": structured}
    return {name: getattr(row, name) for name in (*_shared, "answered_at")} | {
        "state": _APPROVAL_STATES.get(row.state, "VOID"),
        "output": output,
        "feedback": answer.get("reason", ""),
        "requested_at": row.created_at,
    }

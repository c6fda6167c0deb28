"""What executions ask people."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, String, Table, Text

from services.common.db.types import JsonDocument, UtcDateTime
from services.orchestrator.tables.columns import GROUP, ID, metadata

# What executions ask people.
questions = Table(
    "questions",
    metadata,
    Column("id", ID, primary_key=True),
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    Column("group_id", GROUP, nullable=False),
    Column("crew_id", ID, nullable=False),
    Column("crew_name", String(256), nullable=False),
    Column("task_index", Integer, nullable=False),
    Column("task_name", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", String(32), nullable=False),  # QuestionKind
    Column("state", String(32), nullable=False),  # QuestionState
    Column("text", Text, nullable=False),
    Column("content", JsonDocument, nullable=False),  # what it is about, by its kind: TaskOutput or QuestionedCall
    Column("schema", JsonDocument),
    Column("role", Integer, nullable=False),  # Role
    Column("deadline_at", UtcDateTime),
    Column("on_deadline", String(32), nullable=False),  # OnDeadline
    Column("answer", JsonDocument),  # Answer
    Column("answered_by", String(512), nullable=False),
    Column("answered_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_questions_execution_id_task_index", "execution_id", "task_index"),
    Index("ix_questions_group_id_id", "group_id", "id"),
    Index("ix_questions_group_id_state_id", "group_id", "state", "id"),
    Index("ix_questions_group_id_crew_id_id", "group_id", "crew_id", "id"),
    Index("ix_questions_state_deadline_at", "state", "deadline_at"),
)

# The last sequence of each group's changes. Its row stays locked until the transaction that raises it ends, so that
# changes become visible in their order.
question_inboxes = Table(
    "question_inboxes",
    metadata,
    Column("group_id", GROUP, primary_key=True),
    Column("last_sequence", BigInteger, nullable=False),
)

question_changes = Table(
    "question_changes",
    metadata,
    Column("group_id", GROUP, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("question_id", ID, ForeignKey("questions.id", ondelete="CASCADE"), nullable=False),
    Column("state", String(32), nullable=False),  # QuestionState, as the change left it
    Index("ix_question_changes_question_id", "question_id"),
)

# Only the release before writes it, while both run; see `repositories/earlier_approvals.py`.
approvals = Table(
    "approvals",
    metadata,
    Column("id", ID, primary_key=True),
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    Column("group_id", GROUP, nullable=False),
    Column("task_index", Integer, nullable=False),
    Column("task_name", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String(32), nullable=False),  # PENDING, APPROVED, REFUSED or VOID
    Column("output", JsonDocument, nullable=False),  # TaskOutput
    Column("feedback", Text, nullable=False),
    Column("answered_by", String(512), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("answered_at", UtcDateTime),
    Index("ix_approvals_execution_id_task_index", "execution_id", "task_index"),
)

"""Files of executions."""

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, String, Table

from services.common.db.types import UtcDateTime
from services.orchestrator.tables.columns import FILE_NAME, FILE_NAME_KEY, GROUP, ID, metadata

# Files of executions, as the last revision that each task made of them. Contents are in `artifact_chunks`.
artifacts = Table(
    "artifacts",
    metadata,
    Column("id", ID, primary_key=True),
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    Column("group_id", GROUP, nullable=False),
    Column("name", FILE_NAME, nullable=False),
    # What names have in common that a file system may take for one.
    Column("name_key", FILE_NAME_KEY, nullable=False),
    Column("task_index", Integer, nullable=False),
    Column("task_name", String(128), nullable=False),
    Column("call_id", String(128), nullable=False),  # empty for a task's result
    Column("media_type", String(256), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    # Whether it is the newest revision of its name.
    Column("is_current", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("uq_artifacts_execution_id_name_key_revision", "execution_id", "name_key", "revision", unique=True),
    Index("ix_artifacts_execution_id_name", "execution_id", "name"),
    # A group's total is read from it alone.
    Index("ix_artifacts_group_id_size", "group_id", "size"),
)

artifact_chunks = Table(
    "artifact_chunks",
    metadata,
    Column("artifact_id", ID, ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("content", LargeBinary, nullable=False),  # CHUNK_BYTES, less in the last one
)

# Files that tools have made, until the host that made the call has taken them.
artifact_uploads = Table(
    "artifact_uploads",
    metadata,
    Column("id", ID, primary_key=True),
    Column("execution_id", ID, ForeignKey("executions.id", ondelete="CASCADE"), nullable=False),
    Column("group_id", GROUP, nullable=False),
    Column("name", String(256), nullable=False),
    Column("media_type", String(256), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_artifact_uploads_execution_id", "execution_id"),
    Index("ix_artifact_uploads_created_at", "created_at"),
)

artifact_upload_chunks = Table(
    "artifact_upload_chunks",
    metadata,
    Column("upload_id", ID, ForeignKey("artifact_uploads.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
)

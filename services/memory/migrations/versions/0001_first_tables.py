"""The first tables."""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the schema."""
    op.create_table(
        "memory_backends",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("databricks", JsonDocument(), nullable=True),
        sa.Column("disabled_kinds", JsonDocument(), nullable=False),
        sa.Column("made_endpoint", sa.String(length=128), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("request_subject", sa.String(length=512), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("request_hash", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_memory_backends"),
        sa.UniqueConstraint("group_id", "name", name="uq_memory_backends_group_id_name"),
        sa.UniqueConstraint(
            "group_id",
            "request_subject",
            "request_id",
            name="uq_memory_backends_group_id_request_subject_request_id",
        ),
    )
    op.create_table(
        "namespaces",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("crew_id", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("embedding_model", sa.String(length=128), nullable=False),
        sa.Column("embedding_dimension", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("removal_version", sa.BigInteger(), nullable=False),
        sa.Column("record_count", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_namespaces"),
        sa.UniqueConstraint("group_id", "crew_id", "kind", name="uq_namespaces_group_id_crew_id_kind"),
    )
    op.create_table(
        "active_backends",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("backend_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["backend_id"], ["memory_backends.id"], name="fk_active_backends_backend_id_memory_backends"
        ),
        sa.PrimaryKeyConstraint("group_id", name="pk_active_backends"),
        sa.UniqueConstraint("backend_id", name="uq_active_backends_backend_id"),
    )
    op.create_table(
        "document_records",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("document_type", sa.Text(), nullable=False),
        sa.Column("section", sa.Text(), nullable=False),
        sa.Column("chunk_index", sa.BigInteger(), nullable=False),
        sa.Column("chunk_size", sa.BigInteger(), nullable=False),
        sa.Column("parent_document_id", sa.Text(), nullable=False),
        sa.Column("document_summary", sa.Text(), nullable=False),
        sa.Column("agent_ids", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Text(), nullable=False),
        sa.Column("doc_metadata", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.Column("embedding_model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("namespace_id", sa.String(length=64), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("written_version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name="fk_document_records_namespace_id_namespaces",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_document_records"),
    )
    with op.batch_alter_table("document_records", schema=None) as batch_op:
        batch_op.create_index("ix_document_records_order", ["namespace_id", "created_us", "id"], unique=False)
        batch_op.create_index("ix_document_records_written", ["namespace_id", "written_version"], unique=False)

    op.create_table(
        "entity_records",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("entity_name", sa.Text(), nullable=False),
        sa.Column("entity_type", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("relationships", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.Text(), nullable=False),
        sa.Column("crew_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("llm_model", sa.Text(), nullable=False),
        sa.Column("tools_used", sa.Text(), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.Column("embedding_model", sa.Text(), nullable=False),
        sa.Column("namespace_id", sa.String(length=64), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("written_version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name="fk_entity_records_namespace_id_namespaces",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_entity_records"),
    )
    with op.batch_alter_table("entity_records", schema=None) as batch_op:
        batch_op.create_index("ix_entity_records_order", ["namespace_id", "created_us", "id"], unique=False)
        batch_op.create_index("ix_entity_records_written", ["namespace_id", "written_version"], unique=False)

    op.create_table(
        "long_term_records",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("task_description", sa.Text(), nullable=False),
        sa.Column("task_hash", sa.Text(), nullable=False),
        sa.Column("quality", sa.Float(precision=53), nullable=False),
        sa.Column("importance", sa.Float(precision=53), nullable=False),
        sa.Column("timestamp", sa.Text(), nullable=False),
        sa.Column("last_accessed", UtcDateTime(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("crew_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("llm_model", sa.Text(), nullable=False),
        sa.Column("tools_used", sa.Text(), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.Column("embedding_model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("namespace_id", sa.String(length=64), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("written_version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name="fk_long_term_records_namespace_id_namespaces",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_long_term_records"),
    )
    with op.batch_alter_table("long_term_records", schema=None) as batch_op:
        batch_op.create_index("ix_long_term_records_order", ["namespace_id", "created_us", "id"], unique=False)
        batch_op.create_index("ix_long_term_records_written", ["namespace_id", "written_version"], unique=False)

    op.create_table(
        "registered_indexes",
        sa.Column("backend_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("workspace_url", sa.String(length=512), nullable=False),
        sa.Column("index_name", sa.String(length=400), nullable=False),
        sa.ForeignKeyConstraint(
            ["backend_id"],
            ["memory_backends.id"],
            name="fk_registered_indexes_backend_id_memory_backends",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("backend_id", "kind", name="pk_registered_indexes"),
    )
    with op.batch_alter_table("registered_indexes", schema=None) as batch_op:
        batch_op.create_index("ix_registered_indexes_group", ["group_id"], unique=False)
        batch_op.create_index("ix_registered_indexes_name", ["index_name", "workspace_url"], unique=False)

    op.create_table(
        "remote_namespaces",
        sa.Column("backend_id", sa.String(length=64), nullable=False),
        sa.Column("crew_id", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(
            ["backend_id"],
            ["memory_backends.id"],
            name="fk_remote_namespaces_backend_id_memory_backends",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("backend_id", "crew_id", "kind", name="pk_remote_namespaces"),
    )
    op.create_table(
        "short_term_records",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("query_text", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("interaction_sequence", sa.BigInteger(), nullable=False),
        sa.Column("timestamp", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("ttl_hours", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("crew_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("llm_model", sa.Text(), nullable=False),
        sa.Column("tools_used", sa.Text(), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.Column("embedding_model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("namespace_id", sa.String(length=64), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("written_version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name="fk_short_term_records_namespace_id_namespaces",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_short_term_records"),
    )
    with op.batch_alter_table("short_term_records", schema=None) as batch_op:
        batch_op.create_index("ix_short_term_records_expiry", ["expires_us"], unique=False)
        batch_op.create_index("ix_short_term_records_order", ["namespace_id", "created_us", "id"], unique=False)
        batch_op.create_index("ix_short_term_records_written", ["namespace_id", "written_version"], unique=False)

    op.create_table(
        "unified_records",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("categories", sa.Text(), nullable=False),
        sa.Column("importance", sa.Float(precision=53), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("last_accessed", UtcDateTime(), nullable=True),
        sa.Column("crew_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("llm_model", sa.Text(), nullable=False),
        sa.Column("tools_used", sa.Text(), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.Column("embedding_model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("namespace_id", sa.String(length=64), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("written_version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name="fk_unified_records_namespace_id_namespaces",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_unified_records"),
    )
    with op.batch_alter_table("unified_records", schema=None) as batch_op:
        batch_op.create_index("ix_unified_records_order", ["namespace_id", "created_us", "id"], unique=False)
        batch_op.create_index("ix_unified_records_written", ["namespace_id", "written_version"], unique=False)


def downgrade() -> None:
    """Take the change back."""
    with op.batch_alter_table("unified_records", schema=None) as batch_op:
        batch_op.drop_index("ix_unified_records_written")
        batch_op.drop_index("ix_unified_records_order")

    op.drop_table("unified_records")
    with op.batch_alter_table("short_term_records", schema=None) as batch_op:
        batch_op.drop_index("ix_short_term_records_written")
        batch_op.drop_index("ix_short_term_records_order")
        batch_op.drop_index("ix_short_term_records_expiry")

    op.drop_table("short_term_records")
    op.drop_table("remote_namespaces")
    with op.batch_alter_table("registered_indexes", schema=None) as batch_op:
        batch_op.drop_index("ix_registered_indexes_name")
        batch_op.drop_index("ix_registered_indexes_group")

    op.drop_table("registered_indexes")
    with op.batch_alter_table("long_term_records", schema=None) as batch_op:
        batch_op.drop_index("ix_long_term_records_written")
        batch_op.drop_index("ix_long_term_records_order")

    op.drop_table("long_term_records")
    with op.batch_alter_table("entity_records", schema=None) as batch_op:
        batch_op.drop_index("ix_entity_records_written")
        batch_op.drop_index("ix_entity_records_order")

    op.drop_table("entity_records")
    with op.batch_alter_table("document_records", schema=None) as batch_op:
        batch_op.drop_index("ix_document_records_written")
        batch_op.drop_index("ix_document_records_order")

    op.drop_table("document_records")
    op.drop_table("active_backends")
    op.drop_table("namespaces")
    op.drop_table("memory_backends")

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
        "credential_sessions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("credential_hash", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("origin", sa.String(length=512), nullable=False),
        sa.Column("claimed_roles", JsonDocument(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_credential_sessions"),
        sa.UniqueConstraint("credential_hash", name="uq_credential_sessions_credential_hash"),
    )
    op.create_index("ix_credential_sessions_expires_at", "credential_sessions", ["expires_at"], unique=False)
    op.create_table(
        "encryption_keys",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("check_value", sa.LargeBinary(), nullable=False),
        sa.Column("sealing", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_encryption_keys"),
    )
    op.create_index(
        "uq_encryption_keys_sealing",
        "encryption_keys",
        ["sealing"],
        unique=True,
        sqlite_where=sa.text("sealing"),
        postgresql_where=sa.text("sealing"),
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("identity", sa.Integer(), nullable=False),
        sa.Column("on_credential_expiry", sa.Integer(), nullable=False),
        sa.Column("credential_kind", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=False),
        sa.Column("credential_expires_at", UtcDateTime(), nullable=True),
        sa.Column("claimed_role", sa.Integer(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_grants"),
        sa.UniqueConstraint("execution_id", name="uq_grants_execution_id"),
    )
    op.create_index("ix_grants_revoked_at", "grants", ["revoked_at"], unique=False)
    op.create_table(
        "groups",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("display_name", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_groups"),
    )
    op.create_table(
        "memberships",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("role", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "subject", name="pk_memberships"),
    )
    op.create_index("ix_memberships_subject", "memberships", ["subject"], unique=False)
    op.create_table(
        "platform_admins",
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_platform_admins"),
    )
    op.create_table(
        "requests",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("method", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("resource_id", sa.String(length=128), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "subject", "method", "request_id", name="pk_requests"),
    )
    op.create_table(
        "secrets",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=12), nullable=False),
        sa.Column("allowed_origins", JsonDocument(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_secrets"),
        sa.UniqueConstraint("group_id", "name", name="uq_secrets_group_id_name"),
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("kid", name="pk_signing_keys"),
    )
    op.create_index(
        "uq_signing_keys_state",
        "signing_keys",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state < 3"),
        postgresql_where=sa.text("state < 3"),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_index("uq_signing_keys_state", table_name="signing_keys")
    op.drop_table("signing_keys")
    op.drop_table("secrets")
    op.drop_table("requests")
    op.drop_table("platform_admins")
    op.drop_index("ix_memberships_subject", table_name="memberships")
    op.drop_table("memberships")
    op.drop_table("groups")
    op.drop_index("ix_grants_revoked_at", table_name="grants")
    op.drop_table("grants")
    op.drop_index("uq_encryption_keys_sealing", table_name="encryption_keys")
    op.drop_table("encryption_keys")
    op.drop_index("ix_credential_sessions_expires_at", table_name="credential_sessions")
    op.drop_table("credential_sessions")

"""Leave the index of words on SQLite to saves: triggers had it written out after each row.

Revision ID: 0014
Revises: 0013
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_INDEXED = "INSERT INTO record_words_fts (rowid, namespace_id, words) VALUES (new.doc, new.namespace_id, new.words);"
_NO_MORE = (
    "INSERT INTO record_words_fts (record_words_fts, rowid, namespace_id, words) "
    "VALUES ('delete', old.doc, old.namespace_id, old.words);"
)


def upgrade() -> None:
    """Drop the triggers of what is added and changed; that of what is removed stays."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER record_words_added")
        op.execute("DROP TRIGGER record_words_changed")


def downgrade() -> None:
    """Make them again."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"CREATE TRIGGER record_words_added AFTER INSERT ON record_words BEGIN {_INDEXED} END")
        op.execute(f"CREATE TRIGGER record_words_changed AFTER UPDATE ON record_words BEGIN {_NO_MORE} {_INDEXED} END")

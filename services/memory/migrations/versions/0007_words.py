"""Keep the words of records in an index, by which searches find them.

Revision ID: 0007
Revises: 0006
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from services.common.db.portions import portions

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TEXTS: Mapping[str, Sequence[str]] = {
    "unified": ("content",),
    "short_term": ("content",),
    "long_term": ("content",),
    "entity": ("entity_name", "entity_type", "description"),
    "document": ("title", "content"),
}
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_INDEXED = "INSERT INTO record_words_fts (rowid, namespace_id, words) VALUES (new.doc, new.namespace_id, new.words);"
_NO_MORE = (
    "INSERT INTO record_words_fts (record_words_fts, rowid, namespace_id, words) "
    "VALUES ('delete', old.doc, old.namespace_id, old.words);"
)


def upgrade() -> None:
    """Make the index and fill it with the words of the records there are."""
    words = sa.Text().with_variant(postgresql.TSVECTOR(), "postgresql")
    op.create_table(
        "record_words",
        sa.Column("doc", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=True),
        sa.Column("record_id", sa.String(length=64), nullable=False),
        sa.Column("namespace_id", sa.String(length=64), nullable=False),
        sa.Column("words", words, nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name="fk_record_words_namespace_id_namespaces",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("doc", name="pk_record_words"),
        sa.UniqueConstraint("record_id", name="uq_record_words_record_id"),
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE record_words_fts USING fts5(namespace_id, words, content='record_words', "
            "content_rowid='doc', columnsize=0, tokenize=\"ascii tokenchars '_'\")"
        )
        op.execute(f"CREATE TRIGGER record_words_added AFTER INSERT ON record_words BEGIN {_INDEXED} END")
        op.execute(f"CREATE TRIGGER record_words_removed AFTER DELETE ON record_words BEGIN {_NO_MORE} END")
        op.execute(f"CREATE TRIGGER record_words_changed AFTER UPDATE ON record_words BEGIN {_NO_MORE} {_INDEXED} END")
    for kind in _TEXTS:
        _fill(kind)
    if op.get_bind().dialect.name == "postgresql":
        # Of rows that are there an index is made much faster than it takes them one by one.
        op.execute("CREATE INDEX ix_record_words_fts ON record_words USING gin (words)")


def downgrade() -> None:
    """Drop the index."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE record_words_fts")
    op.drop_table("record_words")


def _fill(kind: str) -> None:
    columns = _TEXTS[kind]
    table = sa.table(f"{kind}_records", sa.column("id"), sa.column("namespace_id"), *map(sa.column, columns))
    connection = op.get_bind()
    sqlite = connection.dialect.name == "sqlite"
    value = ":words" if sqlite else "CAST(CAST(:words AS text) AS tsvector)"
    insert = sa.text(f"INSERT INTO record_words (record_id, namespace_id, words) VALUES (:id, :namespace_id, {value})")  # noqa: S608 - one of two texts above
    for rows in portions(connection, table, ["namespace_id", *columns]):
        new = []
        for row in rows:
            words = _words("\n".join(getattr(row, column) or "" for column in columns))
            written = " ".join(words) if sqlite else _lexemes(row.namespace_id, words)
            new.append({"id": row.id, "namespace_id": row.namespace_id, "words": written})
        connection.execute(insert, new)


def _words(text: str) -> list[str]:
    folded = re.sub("[\u0300-\u036f]+", "", unicodedata.normalize("NFKD", text)).casefold()
    words = [word[:100] for word in _WORD.findall(unicodedata.normalize("NFC", folded))[:16_000]]
    while sum(map(len, words)) > 150_000:
        words = words[: len(words) // 2]
    return words


def _lexemes(namespace_id: str, words: Sequence[str]) -> str:
    positions: dict[str, list[str]] = {}
    for place, word in enumerate(words, start=1):
        positions.setdefault(word, []).append(str(place))
    return " ".join([f"'/{namespace_id}'", *(f"'{word}':{','.join(at[:255])}" for word, at in positions.items())])

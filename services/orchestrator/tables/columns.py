"""What the tables have in common."""

from sqlalchemy import Index, MetaData, String, text

from services.common.db.types import NAMING_CONVENTION

metadata = MetaData(naming_convention=NAMING_CONVENTION)

ID = String(64)
GROUP = String(128)
# In the same order on both databases.
NAME = String(128).with_variant(String(128, collation="C"), "postgresql")
FILE_NAME = String(256).with_variant(String(256, collation="C"), "postgresql")
# Folding a letter's case makes up to three of it.
FILE_NAME_KEY = String(1024).with_variant(String(1024, collation="C"), "postgresql")


def partial_index(table: str, condition: str, *columns: str, unique: bool = False) -> Index:
    """Return an index of the rows that meet a condition."""
    name = f"{'uq' if unique else 'ix'}_{table}_{'_'.join(columns)}"
    where = text(condition)
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)

"""Rows for migrations that compute something of each: in portions that are bounded in bytes, however long the texts."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Integer, LargeBinary, Row, TableClause, cast, func, select, true

_ROWS: Final = 1000
_BYTES: Final = 8 * 1024 * 1024


def portions(
    connection: Connection, table: TableClause, columns: Sequence[str], where: ColumnElement[bool] | None = None
) -> Iterator[Sequence[Row[Any]]]:
    """Yield the rows of a table in order of `id`, with it and the columns named, some megabytes at once.

    A row that is longer than that comes alone. The table may be written to between portions, but for its ids.
    """
    wanted = [table.c.id, *(table.c[name] for name in columns)]
    clause = true() if where is None else where
    last = ""
    while True:
        lengths = select(table.c.id, _length(connection, table, columns)).where(clause, table.c.id > last)
        sizes = [(row[0], row[1]) for row in connection.execute(lengths.order_by(table.c.id).limit(_ROWS))]
        if not sizes:
            return
        for first, end in _bounded(sizes):
            statement = select(*wanted).where(clause, table.c.id.between(first, end)).order_by(table.c.id)
            yield connection.execute(statement).all()
        last = sizes[-1][0]


def _length(connection: Connection, table: TableClause, columns: Sequence[str]) -> ColumnElement[int]:
    """Return how many bytes the texts of a row have."""
    total: ColumnElement[int] = cast(0, Integer)
    for name in columns:
        text = table.c[name]
        size = func.length(cast(text, LargeBinary)) if connection.dialect.name == "sqlite" else _octets(text)
        total = total + func.coalesce(size, 0)
    return total


def _octets(column: ColumnElement[Any]) -> ColumnElement[int]:
    # What is no text has a few bytes, as which its text is counted.
    octets: ColumnElement[int] = func.octet_length(func.concat(column))
    return octets


def _bounded(sizes: Sequence[tuple[str, int]]) -> Iterator[tuple[str, str]]:
    """Yield the first and last id of each portion."""
    first, last, total = "", "", 0
    for row_id, size in sizes:
        if first and total + size > _BYTES:
            yield first, last
            first, total = "", 0
        first, last, total = first or row_id, row_id, total + size
    yield first, last

"""What a database is asked to do in transactions, so that tests can count it."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import event

from services.common.db.database import Database

_CHANGE = re.compile(r"(INSERT INTO|UPDATE|DELETE FROM) \W?(?:\w+\W?\.\W?)?(\w+)")


@contextlib.contextmanager
def noted_statements(database: Database) -> Iterator[list[str]]:
    """Yield a list that gets each statement meanwhile, reads too, but for the point reads."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def changes_in(statements: Iterable[str]) -> list[str]:
    """Return the verb and the table of each statement that changes rows, such as "INSERT executions"."""
    found = filter(None, map(_CHANGE.match, statements))
    return [f"{each.group(1).split()[0]} {each.group(2)}" for each in found]

"""What a database is asked to do in transactions, so that tests can count it."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import event

from services.common.db.database import Database

_CHANGE = re.compile(r"(INSERT INTO|UPDATE|DELETE FROM) \W?(?:\w+\W?\.\W?)?(\w+)")


@contextlib.contextmanager
def noted_changes(database: Database) -> Iterator[list[str]]:
    """Yield a list that gets the verb and the table of each statement that changes rows meanwhile."""
    changes: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found = _CHANGE.match(statement)
        if found:
            changes.append(f"{found.group(1).split()[0]} {found.group(2)}")

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield changes
    finally:
        event.remove(engine, "before_cursor_execute", note)

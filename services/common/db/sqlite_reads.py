"""SELECTs by SQLite's own driver: what SQLAlchemy adds to a small one costs more than the database does."""

import json
import re
import sqlite3
import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy.dialects import sqlite

from services.common.db.statement import Statement

# The place of a list, which SQLAlchemy would fill in anew for each of its lengths.
_LIST = re.compile(r"__\[POSTCOMPILE_(\w+)\]")


class SqliteReads:
    """Runs statements on a connection for each thread, which waits for nobody. What it raises is the driver's.

    Their texts are kept: they have to be made once. Lists of what JSON can hold may be parameters
    (`bindparam(expanding=True)`).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._texts: WeakKeyDictionary[Statement, str] = WeakKeyDictionary()
        self._own = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def fetch(self, statement: Statement, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return rows by column names, with values as the driver gives them."""
        text = self._texts.get(statement)
        if text is None:
            self._texts[statement] = text = _text(statement)
        plain = {name: json.dumps(value) if isinstance(value, list) else value for name, value in parameters.items()}
        connection = self._connection()
        try:
            cursor = connection.execute(text, plain)
            # All of them at once: a statement that is not at its end would hold a snapshot, and the file's growth.
            rows = cursor.fetchall()
        except sqlite3.Error:
            self._drop(connection)
            raise
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA query_only=ON")
            self._own.connection = connection
            self._connections.append(connection)
        return connection

    def _drop(self, connection: sqlite3.Connection) -> None:
        self._own.connection = None
        self._connections.remove(connection)
        connection.close()

    def close(self) -> None:
        """Close all connections, once no thread reads any more."""
        for connection in self._connections:
            connection.close()


def _text(statement: Statement) -> str:
    text = str(statement.compile(dialect=sqlite.dialect(paramstyle="named")))
    return _LIST.sub(r"SELECT value FROM json_each(:\1)", text)

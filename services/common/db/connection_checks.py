"""Finds connections that have died in the pool before a transaction does."""

import time
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

_IDLE_SECONDS = 1.0
_CHECKED_IN = "coxswain_checked_in"


def ping_idle_connections(engine: Engine) -> None:
    """Ping connections of a pool that have not been used for a second before they are; replace those that are dead.

    SQLAlchemy's `pool_pre_ping` does so before every transaction, which is three statements each time. A server that
    restarts takes longer than a second, and the first error of that kind empties the pool.
    """
    dialect = engine.dialect

    @event.listens_for(engine, "checkin")
    def checked_in(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_CHECKED_IN] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def check(connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        used = entry.info.get(_CHECKED_IN)
        if used is None or time.monotonic() - used < _IDLE_SECONDS:
            return
        try:
            alive = dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            if not dialect.is_disconnect(error, connection, None):
                raise
            alive = False
        if not alive:
            raise DisconnectionError

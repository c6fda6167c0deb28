"""Errors of a database that does not answer or takes no writes, as errors for callers."""

import contextlib
from collections.abc import Iterator, Mapping

from sqlalchemy.exc import DBAPIError

from services.common.errors import Aborted, CoxswainError, InvalidArgument, Unavailable

_SILENT = "the database does not answer; try again in a moment"
_FULL = "the database has no room left: nothing of this call was stored. The operator has to make room on its disk"
_READ_ONLY = "the database takes no writes: nothing of this call was stored. The operator has to make it writable"

# SQLite's errors are known by their texts alone, PostgreSQL's by SQLSTATE.
_SQLITE: Mapping[str, str] = {
    "database is locked": _SILENT,
    "unable to open": _SILENT,
    "disk I/O error": _SILENT,
    "database or disk is full": _FULL,
    "attempt to write a readonly database": _READ_ONLY,
}
_POSTGRESQL: Mapping[str, str] = {
    "40P01": _SILENT,  # a deadlock, which this transaction was chosen to end
    "25P03": _SILENT,  # this process stood still within a transaction
    "25006": _READ_ONLY,  # a standby, or a server that was made one
    "53100": _FULL,
    "53300": _SILENT,  # too many connections
    "57P01": _SILENT,  # shutting down
    "57P03": _SILENT,  # starting up
}

# A row that another one refers to: it was removed, or came to be used, since this transaction saw it.
_REMOVED = "what this call is about was removed or came to be used while it ran; look again, and repeat it"
_REMOVED_SQLITE = "FOREIGN KEY constraint failed"
_REMOVED_POSTGRESQL = "23503"

_TOO_LARGE = (
    "this call asks for more at once than the database can decide; send fewer conditions and values, or split it"
)
_TOO_LARGE_SQLITE = ("Expression tree is too large", "parser stack overflow", "too many SQL variables")
_TOO_LARGE_POSTGRESQL = "54001"  # statement too complex


def unavailable(message: str = _SILENT) -> Unavailable:
    """Return the error that callers get."""
    return Unavailable(message, metadata={"dependency": "database"}, retry_after=1.0)


@contextlib.contextmanager
def explained_errors() -> Iterator[None]:
    """Turn errors of the database itself into errors for callers."""
    try:
        yield
    except Exception as error:
        refused = refusal(error)
        if refused is not None:
            raise refused from error
        raise


def refusal(error: Exception) -> CoxswainError | None:
    """Return the error for callers; None when neither the database nor the size of a call is at fault."""
    # asyncpg's own word for a connection that broke in the middle of a call, which SQLAlchemy does not translate. By
    # name, as installations on SQLite do not load asyncpg.
    if type(error).__name__ == "InternalClientError":
        return unavailable()
    if not isinstance(error, DBAPIError):
        return None
    if error.connection_invalidated:
        return unavailable()
    state = getattr(error.orig, "sqlstate", None)
    if state == _TOO_LARGE_POSTGRESQL:
        return InvalidArgument(_TOO_LARGE)
    if state == _REMOVED_POSTGRESQL:
        return Aborted(_REMOVED)
    if state is not None:
        return unavailable(_POSTGRESQL[state]) if state in _POSTGRESQL else None
    said = str(error.orig)
    if _REMOVED_SQLITE in said:
        return Aborted(_REMOVED)
    if any(words in said for words in _TOO_LARGE_SQLITE):
        return InvalidArgument(_TOO_LARGE)
    return next((unavailable(message) for words, message in _SQLITE.items() if words in said), None)

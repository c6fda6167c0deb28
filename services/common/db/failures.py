"""What a database that does not answer raises, and what callers are told then."""

from sqlalchemy.exc import DBAPIError

from services.common.errors import Unavailable


def is_unanswered(error: DBAPIError) -> bool:
    """Tell whether an error means that the database did not answer, and not that the statement is wrong."""
    said = str(error.orig)
    return error.connection_invalidated or "database is locked" in said or "unable to open" in said


def unavailable() -> Unavailable:
    """Return what callers are told."""
    return Unavailable(
        "the database does not answer; try again in a moment", metadata={"dependency": "database"}, retry_after=1.0
    )

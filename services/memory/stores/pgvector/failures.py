"""What failures of a group's database mean to our callers. The server's own words are never quoted: they may hold
memories, and what it was sent to sign in."""

import contextlib
import ssl
from collections.abc import Iterator
from typing import Final

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from services.common.errors import (
    CoxswainError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)
from services.memory.domain.backends import PgvectorConfig
from services.memory.stores.pgvector.answer_room import AnswerTooLarge, NoRoomForAnswer

_RETRY_SECONDS: Final = 1.0
_MISSING: Final = frozenset({"42P01", "42703", "42883", "42704", "3F000", "42804"})
"""Of tables, columns, functions, types and schemas, and a column of another type."""
_PASSING: Final = ("08", "40", "53", "55", "57P", "58", "XX")
"""Of connections, conflicts, resources, locks, restarts and the server's own faults."""


class LoginRefused(Exception):
    """The database does not take user and password; never leaves the store."""


@contextlib.contextmanager
def explained(config: PgvectorConfig, user: str) -> Iterator[None]:
    """Turn failures of the database into errors for callers."""
    try:
        yield
    except Exception as error:
        failure = failure_of(error, config, user)
        if failure is not None:
            raise failure from None
        raise


def failure_of(error: BaseException, config: PgvectorConfig, user: str) -> Exception | None:
    """Return the error for callers, or `LoginRefused`; None when the database is not at fault."""
    if _ended_here(error, NoRoomForAnswer):
        return Unavailable(
            "answers of databases that groups name take all the room there is for those of your group, or of all "
            "(COXSWAIN_MEMORY_PGVECTOR_HELD_BYTES); try again in a moment, or ask for less at once",
            metadata={"dependency": "database"},
            retry_after=_RETRY_SECONDS,
        )
    if _ended_here(error, AnswerTooLarge):
        return FailedPrecondition(
            f"{config.subject} answers with more than is taken (COXSWAIN_MEMORY_PGVECTOR_ANSWER_BYTES): ask for "
            "less at once, or without embeddings. When it stays so, its tables were changed by something else",
            reason="STORE_FAILED",
            metadata=_metadata("ANSWER_TOO_LARGE"),
        )
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return unreachable(config)
        original = error.orig
        state = getattr(original, "sqlstate", None)
        # What broke between the driver and the server carries no state.
        return _by_state(state, config, user) if state else unreachable(config)
    if isinstance(error, asyncpg.PostgresError):
        return _by_state(error.sqlstate or "", config, user)
    if isinstance(error, ssl.SSLCertVerificationError):
        return FailedPrecondition(
            f"the certificate of {config.address} is not trusted ({error.verify_message}): name its authority in the "
            "backend's ca_certificates and the server by the name in its certificate, or choose another tls_mode",
            reason="STORE_FAILED",
            metadata=_metadata("certificate"),
        )
    if isinstance(error, PoolTimeoutError):
        return Unavailable(
            f"all connections to {config.subject} are in use; try again in a moment",
            metadata={"dependency": "database"},
            retry_after=_RETRY_SECONDS,
        )
    if isinstance(error, CoxswainError | LoginRefused):
        return None
    # `UnicodeError`: of names that cannot be looked up, and of texts that a server sends and that are none.
    lost = OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError | BufferError | UnicodeError
    return unreachable(config) if isinstance(error, lost) else None


def _ended_here(error: BaseException, reason: type[Exception]) -> bool:
    """Return whether the connection was ended here, for what came over it: the driver names that as the cause."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    while cause is not None and not isinstance(cause, reason):
        cause = cause.__cause__
    return cause is not None


def unreachable(config: PgvectorConfig) -> Unavailable:
    """Return the failure of a database that does not answer."""
    return Unavailable(
        f"{config.subject} does not answer, or ended the connection; try again in a moment. When it stays so, see "
        "whether the server runs, takes connections with TLS and can be reached from here",
        metadata={"dependency": "database"},
        retry_after=_RETRY_SECONDS,
    )


def extension_missing(config: PgvectorConfig) -> FailedPrecondition:
    """Return the failure of a database without pgvector."""
    return FailedPrecondition(
        f"{config.subject} does not have the extension pgvector: install it on the server, and run there as somebody "
        "who may: CREATE EXTENSION vector;",
        reason="STORE_FAILED",
        metadata=_metadata("extension"),
    )


def rights_missing(config: PgvectorConfig, user: str) -> FailedPrecondition:
    """Return the failure of a user who may do less than is needed."""
    return FailedPrecondition(
        f"user {user} may not do this in {config.subject}. As the owner of the schema run: {grants(config, user)}",
        reason="STORE_FAILED",
        metadata=_metadata("42501"),
    )


def grants(config: PgvectorConfig, user: str) -> str:
    """Return the statements that let a user keep memories."""
    name, schema = quoted(user), quoted(config.schema)
    return (
        f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {name}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {name}; "
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {name};"
    )


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _by_state(state: str, config: PgvectorConfig, user: str) -> Exception:
    if state.startswith("28"):
        return LoginRefused()
    if state == "3D000":
        return FailedPrecondition(
            f"{config.address} has no database {config.database}: create it, or correct the backend's database",
            reason="STORE_FAILED",
            metadata=_metadata(state),
        )
    if state in _MISSING:
        return FailedPrecondition(
            f"the tables in schema {config.schema} of {config.subject} are missing or of another version: "
            "ProvisionMemoryBackend makes them and brings them up to date",
            reason="INDEX_NOT_READY",
            metadata={"index": f"{config.database}.{config.schema}", "state": state},
        )
    if state == "42501":
        return rights_missing(config, user)
    if state == "57014":
        return DeadlineExceeded(
            f"{config.subject} took too long; ask for less at once, or give the server more to work with",
            reason="STORE_FAILED",
            metadata=_metadata(state),
        )
    if state == "25006":
        return FailedPrecondition(
            f"{config.subject} takes no writes: name the primary server in the backend",
            reason="STORE_FAILED",
            metadata=_metadata(state),
        )
    if state == "54001":
        return InvalidArgument(
            "this call asks for more at once than the database can decide; send fewer conditions and values, "
            "or split it"
        )
    if state == "53100":
        return Unavailable(
            f"{config.subject} has no room left: nothing of this call was stored. Make room on its disk",
            metadata={"dependency": "database"},
            retry_after=_RETRY_SECONDS,
        )
    if state.startswith(_PASSING):
        return unreachable(config)
    return FailedPrecondition(
        f"{config.subject} refused a statement (SQLSTATE {state[:5]}): VerifyMemoryBackend says what it lacks; if "
        "nothing, its tables were changed by something else",
        reason="STORE_FAILED",
        metadata=_metadata(state[:5]),
    )


def _metadata(code: str) -> dict[str, str]:
    return {"http_status": "", "error_code": code}

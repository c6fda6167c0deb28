"""How a process starts on a database: it waits a while for one that is away, and says why one cannot be used."""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import structlog
from alembic.util import CommandError
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.backoff import Backoff
from services.common.db.database import Database, described_url, sqlite_file
from services.common.db.file_systems import check_file_system
from services.common.errors import Unavailable
from services.common.startup import StartError

logger = structlog.get_logger(__name__)

# PostgreSQL has no connection left, is shutting down, has crashed, or is starting up.
_PASSING = {"53300", "57P01", "57P02", "57P03"}


@dataclass(frozen=True, slots=True)
class Reached:
    """What a URL leads to."""

    pooler: bool
    """Whether it leads through a pooler."""
    database: tuple[str, str]
    """Tells a database of PostgreSQL from others: its name, and when its server started. Empty for SQLite."""


async def wait_for_database(url: str, schema: str, seconds: float) -> Reached:
    """Return what a URL leads to, once a connection can be made.

    A database that is away for the moment gets some seconds.

    Raises:
        Unavailable: it is still away after that time, or refuses for a reason that time does not mend.
        StartError: it is a file of SQLite on a network file system.
    """
    file = sqlite_file(url)
    if file is not None:
        check_file_system(file)
    database = Database(url, schema, null_pool=True, pooler=True)
    end, backoff = time.monotonic() + seconds, Backoff(0.2, 2)
    attempt = 0
    try:
        while True:
            try:
                async with database.read() as connection:
                    return await _reached(connection)
            except Unavailable as error:
                if time.monotonic() >= end or not _passes(error.__cause__):
                    raise
                if not attempt:
                    logger.warning(
                        "database_awaited", database=described_url(url), seconds=seconds, cause=_reason(error.__cause__)
                    )
            attempt += 1
            await asyncio.sleep(min(backoff.pause(attempt), max(0.0, end - time.monotonic())))
    finally:
        await database.close()


async def _reached(connection: AsyncConnection) -> Reached:
    if connection.dialect.name != "postgresql":
        return Reached(pooler=False, database=("", ""))
    driver: Any = (await connection.get_raw_connection()).driver_connection
    found = select(func.pg_backend_pid(), func.current_database(), func.pg_postmaster_start_time())
    process, name, since = (await connection.execute(found)).one()
    # A pooler tells its clients processes of its own invention.
    return Reached(pooler=process != driver.get_server_pid(), database=(str(name), str(since)))


def _passes(cause: BaseException | None) -> bool:
    """Return whether waiting may help."""
    if isinstance(cause, DBAPIError):
        return getattr(cause.orig, "sqlstate", None) in _PASSING
    return isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError)


@contextlib.contextmanager
def database_faults(name: str, url: str) -> Iterator[None]:
    """Name the database and the cause, and never its password, where it cannot be used.

    Raises:
        StartError: the database is away, refuses, or is not one.
    """
    try:
        yield
    except (OSError, Unavailable, DBAPIError, CommandError) as error:
        cause = error.__cause__ if isinstance(error, Unavailable) and error.__cause__ is not None else error
        raise StartError(f"the database of {name} ({described_url(url)}) cannot be used: {_reason(cause)}") from error


def _reason(error: BaseException | None) -> str:
    """Return the first line of what a driver or the system says."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        return error.strerror
    # SQLAlchemy writes the class of an error of asyncpg before its text.
    text = re.sub(r"^<class '[^']*'>: ", "", str(error).strip())
    return text.splitlines()[0] if text else type(error).__name__

"""The connection that a host's lease lives by: renewed on it, and on PostgreSQL shown by a lock that ends with it."""

import contextlib
import os
import secrets
import select
import socket
from collections.abc import Callable
from io import FileIO
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, NullPool, create_engine, func
from sqlalchemy import select as sql_select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from services.orchestrator.file_locks import FileLocks
from services.orchestrator.lease_store import lease_url
from services.orchestrator.repositories.leases import LeaseRepository
from services.orchestrator.tables import worker_leases

logger = structlog.get_logger(__name__)

_TRIES = 6
"""How often renewing can fail by a silent database until the lease runs out."""
_KEY_BITS = 63


class LeaseConnection:
    """One host's lease and the lock beside it. For one thread, which may be interrupted in `wait` by another one."""

    def __init__(self, url: URL, schema: str, executor_id: str, ttl: float) -> None:
        """`url` leads to the orchestrator's database, best without a pooler in between; `ttl` is in seconds."""
        self._executor_id = executor_id
        self._ttl = ttl
        self._engine = _engine(lease_url(url), schema, patience=ttl / _TRIES)
        self._files = FileLocks.beside(lease_url(url))
        self._file: FileIO | None = None
        self._connection: Connection | None = None
        self._key: int | None = None
        self._wake_reader, self._wake_writer = socket.socketpair()

    def renew(self) -> bool:
        """Let the host live for another `ttl`; return whether its lease had not run out since the last time.

        Raises:
            OSError, DBAPIError: the database does not answer.
        """
        return bool(self._on_connection(self._renew))

    def end(self) -> None:
        """End the lease, so that others take over at once.

        Raises:
            OSError, DBAPIError: the database does not answer.
        """
        self._on_connection(lambda connection: LeaseRepository(connection).end(self._executor_id))

    def wait(self, seconds: float) -> None:
        """Wait until the time is over, the connection ends or `wake` is called."""
        watched: list[Any] = [self._wake_reader]
        raw = None if self._connection is None or self._files is not None else _raw(self._connection)
        if raw is not None:
            watched.append(raw.pgconn.socket)
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if raw is not None and raw.pgconn.socket in ready:
            # The server has something to say that nobody asked for: in most cases that it goes.
            self._close_connection()

    def wake(self) -> None:
        """End a `wait`, now or the next one; after `close` there is none."""
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"w")

    def close(self) -> None:
        """Give up connection and lock: from now on this host looks dead."""
        self._close_connection()
        self._engine.dispose()
        if self._file is not None:
            self._file.close()
        if self._files is not None and self._key is not None:
            self._files.remove(self._key)
        self._wake_reader.close()
        self._wake_writer.close()

    def _renew(self, connection: Connection) -> bool:
        leases = LeaseRepository(connection)
        kept = leases.renew(self._executor_id, self._ttl, self._key)
        if not kept:
            leases.begin(self._executor_id, socket.gethostname(), os.getpid(), self._ttl, self._key)
        return kept

    def _on_connection(self, use: Callable[[Connection], Any]) -> Any:
        if self._connection is not None:
            try:
                return use(self._connection)
            except (OSError, DBAPIError):
                # Once more on a new one: this may have been lost long ago.
                self._close_connection()
        try:
            return use(self._open())
        except BaseException:
            self._close_connection()
            raise

    def _open(self) -> Connection:
        connection = self._connection = self._engine.connect()
        if self._files is None:
            self._key = _lock(connection)
            return connection
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
        worker_leases.create(connection, checkfirst=True)
        if self._file is None:
            key = secrets.randbits(_KEY_BITS)
            with contextlib.suppress(OSError):  # without it the lease alone says that the host lives
                self._file, self._key = self._files.take(key), key
        return connection

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Not given back to a pool: it is closed, and the lock ends with it.
            with contextlib.suppress(OSError, DBAPIError):
                connection.invalidate()
                connection.close()


def _engine(url: URL, schema: str, *, patience: float) -> Engine:
    """Return an engine whose connections give up a silent database after `patience` seconds."""
    if url.get_backend_name() == "sqlite":
        return create_engine(
            url.set(drivername="sqlite"),
            poolclass=NullPool,
            pool_reset_on_return=None,
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": patience, "check_same_thread": False},
        )
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
        connect_args={
            "connect_timeout": max(2, round(patience)),
            "tcp_user_timeout": round(patience * 1000),
            "application_name": "coxswain-lease",
            # Poolers give each statement another session.
            "prepare_threshold": None,
        },
    )
    # Rather than a search path, which poolers refuse.
    return engine.execution_options(schema_translate_map={None: schema})


def _lock(connection: Connection) -> int | None:
    """Take a lock that the server drops with this session, and return its key; None if the session is not ours.

    A pooler tells each client a process id of its own making, and gives sessions to several clients in turn: a lock
    would outlive its host, or end before it.
    """
    expected = _raw(connection).info.backend_pid
    if connection.scalar(sql_select(func.pg_backend_pid())) != expected:
        logger.info("host_lock_not_possible")
        return None
    # A new key each time: the server may still have the last session.
    key = secrets.randbits(_KEY_BITS)
    return key if connection.scalar(sql_select(func.pg_try_advisory_lock(key))) else None


def _raw(connection: Connection) -> Any:
    """Return psycopg's own connection."""
    return connection.connection.driver_connection

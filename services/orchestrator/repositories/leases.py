"""The leases of worker hosts. All times are the database's: hosts share no other clock.

Synchronous: a host renews its own lease in a thread. Others use it through `AsyncConnection.run_sync`.
"""

import functools
from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Function,
    Select,
    cast,
    delete,
    extract,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    update,
)

from services.common.db.database import Database
from services.orchestrator.domain.lease import Lease, LeaseView
from services.orchestrator.tables import worker_leases

_UNIX_EPOCH_AS_JULIAN_DAY = 2440587.5
_SECONDS_OF_A_DAY = 86400.0
_ROW = worker_leases.c
# The keys of all advisory locks in this PostgreSQL database; one of 64 bits lies in two columns of 32.
_SESSION_LOCKS: Select[Any] = (
    select(literal_column("(classid::bigint << 32) | objid::bigint"))
    .select_from(text("pg_catalog.pg_locks"))
    .where(
        text("locktype = 'advisory' AND objsubid = 1 AND granted"),
        text("database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"),
    )
)


class LeaseRepository:
    """Says which hosts are alive."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._now = _now(connection.dialect.name)

    def begin(self, executor_id: str, host_name: str, process_id: int, ttl: float, lock_key: int | None = None) -> None:
        """Let a host live for `ttl` seconds, whatever has become of its lease before."""
        lease = {"expires_at": self._now + literal(ttl), "lock_key": lock_key}
        known = self._connection.execute(
            update(worker_leases).where(_ROW.executor_id == executor_id).values(lease)
        ).rowcount
        if not known:
            self._connection.execute(
                insert(worker_leases).values(
                    executor_id=executor_id,
                    host_name=host_name,
                    process_id=process_id,
                    started_at=self._now,
                    **lease,
                )
            )

    def renew(self, executor_id: str, ttl: float, lock_key: int | None = None) -> bool:
        """Let a host live for `ttl` more seconds; False if its lease has run out: others may have taken over."""
        renewed = self._connection.execute(
            update(worker_leases)
            .where(_ROW.executor_id == executor_id, _ROW.expires_at >= self._now)
            .values(expires_at=self._now + literal(ttl), lock_key=lock_key)
        )
        return bool(renewed.rowcount)

    def end(self, executor_id: str) -> None:
        """Let a host's lease end now, so that others take over what it holds."""
        self._connection.execute(update(worker_leases).where(_ROW.executor_id == executor_id).values(expires_at=0.0))

    def alive(self) -> list[Lease]:
        """Return the leases that have not expired, oldest hosts first."""
        statement = (
            select(_ROW.executor_id, _ROW.started_at, _ROW.expires_at)
            .where(_ROW.expires_at >= self._now)
            .order_by(_ROW.started_at, _ROW.executor_id)
        )
        return [Lease(**row) for row in self._connection.execute(statement).mappings()]

    def forget(self, leases: Collection[LeaseView]) -> None:
        """Remove leases of dead hosts, but those that have been renewed, or have another lock, since they were read."""
        for lease in leases:
            over = _ROW.expires_at < self._now
            if not lease.expired:
                over |= _ROW.lock_key == lease.lock_key
            self._connection.execute(delete(worker_leases).where(_ROW.executor_id == lease.executor_id, over))


async def read_leases(database: Database) -> list[LeaseView]:
    """Return every lease; on SQLite `locked` is left False, for files tell it. One statement needs no transaction."""
    rows = await database.fetch(_all(database.dialect))
    return [LeaseView(**row | {"expired": bool(row["expired"]), "locked": bool(row["locked"])}) for row in rows]


@functools.cache
def _all(dialect: str) -> Select[Any]:
    """Return the statement of `read_leases`, built once: every host asks all the time."""
    locked = _ROW.lock_key.in_(_SESSION_LOCKS) if dialect == "postgresql" else literal(value=False)
    return select(
        _ROW.executor_id,
        (_ROW.expires_at < _now(dialect)).label("expired"),
        _ROW.lock_key,
        locked.label("locked"),
        _ROW.started_at,
    )


@functools.cache
def _now(dialect: str) -> ColumnElement[float]:
    """Return the database's clock in seconds since 1970."""
    if dialect == "sqlite":
        julian: Function[Any] = func.julianday("now")
        return cast((julian - _UNIX_EPOCH_AS_JULIAN_DAY) * _SECONDS_OF_A_DAY, Float)
    return cast(extract("epoch", func.clock_timestamp()), Float)

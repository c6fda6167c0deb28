"""The leases of worker hosts. All times are the database's: hosts share no other clock."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Float, Function, cast, delete, extract, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.lease import Lease
from services.orchestrator.tables import worker_leases

_UNIX_EPOCH_AS_JULIAN_DAY = 2440587.5
_SECONDS_OF_A_DAY = 86400.0


class LeaseRepository:
    """Says which hosts are alive."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._now = _now(connection.dialect.name)

    async def renew(self, executor_id: str, host_name: str, process_id: int, ttl: float) -> None:
        """Let a host live for `ttl` more seconds."""
        expires_at = self._now + literal(ttl)
        renewed = await self._connection.execute(
            update(worker_leases).where(worker_leases.c.executor_id == executor_id).values(expires_at=expires_at)
        )
        if not renewed.rowcount:
            await self._connection.execute(
                insert(worker_leases).values(
                    executor_id=executor_id,
                    host_name=host_name,
                    process_id=process_id,
                    started_at=self._now,
                    expires_at=expires_at,
                )
            )

    async def give_up(self, executor_id: str) -> None:
        """Let a host's lease end now, so that others take over what it holds."""
        await self._connection.execute(
            update(worker_leases).where(worker_leases.c.executor_id == executor_id).values(expires_at=0.0)
        )

    async def alive(self) -> list[Lease]:
        """Return the leases that have not expired, oldest hosts first."""
        columns = (worker_leases.c.executor_id, worker_leases.c.started_at, worker_leases.c.expires_at)
        statement = (
            select(*columns)
            .where(worker_leases.c.expires_at >= self._now)
            .order_by(worker_leases.c.started_at, worker_leases.c.executor_id)
        )
        return [Lease(**row) for row in (await self._connection.execute(statement)).mappings()]

    async def dead(self, holders: Collection[str]) -> set[str]:
        """Return the hosts among `holders` that have no lease, and all whose lease has expired."""
        rows = await self._connection.execute(
            select(worker_leases.c.executor_id, (worker_leases.c.expires_at < self._now).label("expired"))
        )
        expired = {row.executor_id: bool(row.expired) for row in rows}
        return {host for host, dead in expired.items() if dead} | {host for host in holders if host not in expired}

    async def forget(self, executor_ids: Collection[str]) -> None:
        """Remove leases that are still expired."""
        await self._connection.execute(
            delete(worker_leases).where(
                worker_leases.c.executor_id.in_(executor_ids), worker_leases.c.expires_at < self._now
            )
        )


def _now(dialect: str) -> ColumnElement[float]:
    """Return the database's clock in seconds since 1970."""
    if dialect == "sqlite":
        julian: Function[Any] = func.julianday("now")
        return cast((julian - _UNIX_EPOCH_AS_JULIAN_DAY) * _SECONDS_OF_A_DAY, Float)
    return cast(extract("epoch", func.clock_timestamp()), Float)

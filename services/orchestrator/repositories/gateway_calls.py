"""Calls that the tool gateway has sent, in SQL."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.upsert import insert_ignore
from services.orchestrator.domain.gateway_call import CallKey, GatewayCall
from services.orchestrator.tables import gateway_calls

_ROW = gateway_calls.c
# Between two looks at rows whose time is over, other writers get their turn.
_PORTION = 1000


class GatewayCallRepository:
    """Rows of calls by group and call id."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, key: CallKey) -> GatewayCall | None:
        """Return what is known of a call; None: nothing of it was ever sent."""
        found = (await self._connection.execute(select(gateway_calls).where(*_of(key)))).mappings().first()
        if found is None:
            return None
        values = {name: value for name, value in found.items() if name not in ("group_id", "call_id")}
        return GatewayCall(key, **values)

    async def add(self, call: GatewayCall) -> bool:
        """Store a call, and return whether it was not known: whoever stores it is the only one to make it."""
        values = asdict(call)
        return await insert_ignore(self._connection, gateway_calls, values.pop("key") | values)

    async def take_over(self, call: GatewayCall, replica: str, until: datetime) -> bool:
        """Let another process follow a call whose lease has run out; False if one was faster."""
        taken = await self._connection.execute(
            update(gateway_calls)
            .where(*_of(call.key), _ROW.replica == call.replica, _ROW.leased_until == call.leased_until)
            .values(
                replica=replica,
                leased_until=until,
                ended_at=None,
                outcome=None,
                question=None,
                answer=None,
                # It was meant for the process before.
                cancel_requested=False,
            )
        )
        return bool(taken.rowcount)

    async def renew(self, replica: str, until: datetime) -> None:
        """Let the calls that a process makes stay its own."""
        await self._connection.execute(
            update(gateway_calls).where(_ROW.replica == replica, _ROW.ended_at.is_(None)).values(leased_until=until)
        )

    async def keep_handle(self, key: CallKey, replica: str, handle: bytes) -> bool:
        """Store what finds the call again; False if it is another process's call by now."""
        return await self._change(key, replica, handle=handle)

    async def ask(self, key: CallKey, replica: str, question: bytes | None) -> bool:
        """Store the open question of a call, or that there is none any more."""
        return await self._change(key, replica, question=question, answer=None)

    async def end(self, key: CallKey, replica: str, outcome: bytes, now: datetime) -> bool:
        """Store the outcome of a call; False if it is another process's call by now."""
        return await self._change(key, replica, outcome=outcome, ended_at=now, question=None, answer=None)

    async def _change(self, key: CallKey, replica: str, **values: Any) -> bool:
        changed = await self._connection.execute(
            update(gateway_calls).where(*_of(key), _ROW.replica == replica, _ROW.ended_at.is_(None)).values(**values)
        )
        return bool(changed.rowcount)

    async def forget(self, key: CallKey, replica: str) -> None:
        """Remove a call of which it has turned out that nothing was sent."""
        await self._connection.execute(
            delete(gateway_calls).where(*_of(key), _ROW.replica == replica, _ROW.ended_at.is_(None))
        )

    async def request_cancel(self, key: CallKey) -> None:
        """Ask the process that makes a call to cancel it."""
        await self._connection.execute(
            update(gateway_calls).where(*_of(key), _ROW.ended_at.is_(None)).values(cancel_requested=True)
        )

    async def leave_answer(self, key: CallKey, question: bytes, answer: bytes) -> bool:
        """Leave a person's answer for the process that makes a call; False if its question is no longer open."""
        left = await self._connection.execute(
            update(gateway_calls)
            .where(*_of(key), _ROW.ended_at.is_(None), _ROW.question == question, _ROW.answer.is_(None))
            .values(answer=answer)
        )
        return bool(left.rowcount)

    async def wanted(self, replica: str) -> list[tuple[CallKey, bool, bytes | None]]:
        """Return the calls of a process that others want something of: whether to cancel them, and a sealed answer."""
        found = await self._connection.execute(
            select(_ROW.group_id, _ROW.call_id, _ROW.cancel_requested, _ROW.answer).where(
                _ROW.replica == replica,
                _ROW.ended_at.is_(None),
                or_(_ROW.cancel_requested, _ROW.answer.is_not(None)),
            )
        )
        return [(CallKey(row.group_id, row.call_id), row.cancel_requested, row.answer) for row in found]

    async def sent_since(self, group_id: str, source: str, since: datetime) -> list[datetime]:
        """Return when the calls of a source were sent, oldest first."""
        found = await self._connection.execute(
            select(_ROW.sent_at)
            .where(_ROW.group_id == group_id, _ROW.source == source, _ROW.sent_at > since)
            .order_by(_ROW.sent_at)
        )
        return list(found.scalars())

    async def drop_outcomes(self, before: datetime) -> int:
        """Drop what calls that ended before a time returned, and calls of no execution altogether; return how many.

        That a call of an execution was sent stays known as long as the execution: it must not be made again.
        """
        oldest = (
            select(_ROW.ended_at)
            .where(_ROW.outcome.is_not(None), _ROW.ended_at < before)
            .order_by(_ROW.ended_at)
            .limit(_PORTION)
            .subquery()
        )
        until = await self._connection.scalar(select(func.max(oldest.c.ended_at)))
        of_tests = (_ROW.execution_id == "", _ROW.ended_at.is_(None), _ROW.leased_until < before)
        dropped = (await self._connection.execute(delete(gateway_calls).where(*of_tests))).rowcount
        if until is not None:
            over = (_ROW.outcome.is_not(None), _ROW.ended_at <= until)
            gone = await self._connection.execute(delete(gateway_calls).where(_ROW.execution_id == "", *over))
            kept = await self._connection.execute(update(gateway_calls).where(*over).values(outcome=None, handle=None))
            dropped += gone.rowcount + kept.rowcount
        return dropped


def _of(key: CallKey) -> tuple[Any, Any]:
    return _ROW.group_id == key.group_id, _ROW.call_id == key.call_id

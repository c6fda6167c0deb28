"""Calls that the tool gateway has sent, in SQL."""

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.upsert import insert_ignore
from services.orchestrator.domain.gateway_call import CallKey, GatewayCall
from services.orchestrator.tables import executions, gateway_calls, tool_journal

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

    async def take_over(self, call: GatewayCall, execution_id: str, replica: str, until: datetime) -> bool:
        """Let another process follow a call whose lease has run out; False if one was faster.

        From then on it is a call of the execution that asks for it.
        """
        taken = await self._connection.execute(
            update(gateway_calls)
            .where(*_of(call.key), _ROW.replica == call.replica, _ROW.leased_until == call.leased_until)
            .values(
                execution_id=execution_id,
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

    async def let_go(self, key: CallKey, replica: str, now: datetime) -> None:
        """Let others take over a call that a process makes, and which is nobody's until then."""
        await self._change(key, replica, replica="", leased_until=now)

    async def keep_handle(self, key: CallKey, replica: str, handle: bytes) -> bool:
        """Store what finds the call again; False if it is another process's call by now."""
        return await self._change(key, replica, handle=handle)

    async def ask(self, key: CallKey, replica: str, question: bytes | None) -> bool:
        """Store the open question of a call, or that there is none any more."""
        return await self._change(key, replica, question=question, answer=None)

    async def end(self, key: CallKey, replica: str, outcome: bytes, now: datetime) -> bool:
        """Store the outcome of a call; False if it is another process's call by now."""
        return await self._change(key, replica, outcome=outcome, ended_at=now, question=None, answer=None)

    async def _change(self, key: CallKey, of: str, **values: Any) -> bool:
        changed = await self._connection.execute(
            update(gateway_calls).where(*_of(key), _ROW.replica == of, _ROW.ended_at.is_(None)).values(**values)
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

    async def request_cancels(self, execution_id: str) -> None:
        """Ask the processes that make calls of an execution to cancel them."""
        await self._connection.execute(
            update(gateway_calls)
            .where(_ROW.execution_id == execution_id, _ROW.ended_at.is_(None))
            .values(cancel_requested=True)
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

    async def drop_outcomes(self, before: datetime, tests_before: datetime) -> int:
        """Drop what calls that ended before a time returned, and what is not needed at all; return how many rows.

        That a call of an execution was sent stays known as long as the execution: it must not be made again. Of a call
        of TestTool it stays known until it ended before `tests_before`.
        """
        oldest = (
            select(_ROW.ended_at)
            .where(_ROW.outcome.is_not(None), _ROW.ended_at < before)
            .order_by(_ROW.ended_at)
            .limit(_PORTION)
            .subquery()
        )
        until = await self._connection.scalar(select(func.max(oldest.c.ended_at)))
        is_test = _ROW.execution_id == ""
        is_lost = (_ROW.ended_at.is_(None), _ROW.leased_until < before)
        dropped = (
            await self._connection.execute(
                delete(gateway_calls).where(
                    is_test,
                    or_(_ROW.ended_at < tests_before, and_(_ROW.ended_at.is_(None), _ROW.leased_until < tests_before)),
                )
            )
        ).rowcount
        # Rows that were written when their executions were gone already.
        is_gone = and_(~is_test, ~select(executions.c.id).where(executions.c.id == _ROW.execution_id).exists())
        dropped += await self.leave(is_gone, *is_lost)
        if until is not None:
            over = (_ROW.outcome.is_not(None), _ROW.ended_at <= until)
            dropped += await self.leave(is_gone, *over)
            kept = await self._connection.execute(update(gateway_calls).where(*over).values(outcome=None, handle=None))
            dropped += kept.rowcount
        return dropped

    async def unknown_to(self, execution_ids: Collection[str]) -> list[tuple[str, str]]:
        """Return the execution and call id of the calls that executions have made and do not know any more.

        A call that a person says had no effect is made under another id, which its execution knows from then on.
        """
        known = tool_journal.alias()
        found = await self._connection.execute(
            select(_ROW.execution_id, _ROW.call_id)
            .outerjoin(
                known,
                and_(
                    known.c.call_id == _ROW.call_id,
                    known.c.execution_id == _ROW.execution_id,
                    # Such an id is made of the one before: others that continue the same execution come to it as well.
                    known.c.round == 0,
                ),
            )
            .where(_ROW.execution_id.in_(execution_ids), known.c.call_id.is_(None))
        )
        return [(row.execution_id, row.call_id) for row in found]

    async def hand_over(self, group_id: str, call_ids: Collection[str], execution_id: str) -> None:
        """Keep calls for as long as another execution."""
        await self._connection.execute(
            update(gateway_calls)
            .where(_ROW.group_id == group_id, _ROW.call_id.in_(call_ids))
            .values(execution_id=execution_id)
        )

    async def leave(self, *gone: ColumnElement[bool]) -> int:
        """Remove calls of executions that are gone, but for those that another execution knows; return how many.

        Those are kept for as long as that one.
        """
        heir = (
            select(func.min(tool_journal.c.execution_id))
            .where(tool_journal.c.call_id == _ROW.call_id)
            .scalar_subquery()
        )
        await self._connection.execute(update(gateway_calls).where(*gone, heir.is_not(None)).values(execution_id=heir))
        return (await self._connection.execute(delete(gateway_calls).where(*gone))).rowcount


def _of(key: CallKey) -> tuple[Any, Any]:
    return _ROW.group_id == key.group_id, _ROW.call_id == key.call_id

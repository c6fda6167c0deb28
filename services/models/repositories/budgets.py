"""Rows of budgets, of the calls counted against them, and of alerts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Select, case, delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.upsert import insert_ignore, insert_or_add, insert_or_update
from services.models.domain.budget import Budget, BudgetAlert, Scope, ScopedBudget
from services.models.tables import budget_alert_sequences, budget_alerts, budgets, call_counts

_LIMITS = tuple(each.name for each in fields(Budget))


class BudgetRepository:
    """Limits of groups, the calls of scopes that have a limit on them, and alerts."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def set(self, group_id: str, scope: Scope, budget: Budget, *, ceiling: bool) -> None:
        """Replace the limits of a scope: the group's own, or the operator's."""
        limits = {name: getattr(budget, name) for name in _LIMITS}
        row = {"group_id": group_id, **_columns(scope), "ceiling": ceiling, "updated_at": utc_now(), **limits}
        key = ("group_id", "model", "subject", "ceiling")
        await insert_or_update(self._connection, budgets, row, key=key, update=("updated_at", *limits))

    async def delete(self, group_id: str, scope: Scope, *, ceiling: bool) -> None:
        """Remove the limits of a scope, where there are any."""
        await self._connection.execute(
            delete(budgets).where(
                budgets.c.group_id == group_id,
                budgets.c.model == scope.model,
                budgets.c.subject == scope.subject,
                budgets.c.ceiling == ceiling,
            )
        )

    async def page(self, group_id: str, after: Sequence[str] | None, limit: int) -> list[ScopedBudget]:
        """Return the limits of a group in the order of their scopes, from the first one after `after`."""
        key = (budgets.c.model, budgets.c.subject)
        scopes = select(*key).where(budgets.c.group_id == group_id)
        if after is not None:
            scopes = scopes.where(tuple_(*key) > tuple_(*after))
        chosen = scopes.distinct().order_by(*key).limit(limit).subquery()
        statement = (
            select(budgets)
            .join(chosen, (chosen.c.model == budgets.c.model) & (chosen.c.subject == budgets.c.subject))
            .where(budgets.c.group_id == group_id)
            .order_by(*key)
        )
        return _scoped(list((await self._connection.execute(statement)).mappings()))

    async def count_call(self, group_id: str, scope: Scope, minute: int) -> int:
        """Count one more call of a scope in a minute (since the epoch) and return how many there are."""
        counted = case((call_counts.c.minute == minute, call_counts.c.calls + 1), else_=1)
        statement = (
            update(call_counts)
            .where(
                call_counts.c.group_id == group_id,
                call_counts.c.model == scope.model,
                call_counts.c.subject == scope.subject,
            )
            .values(minute=minute, calls=counted)
            .returning(call_counts.c.calls)
        )
        calls = (await self._connection.execute(statement)).scalar_one_or_none()
        if calls is None:
            row = {"group_id": group_id, **_columns(scope), "minute": minute, "calls": 0}
            await insert_ignore(self._connection, call_counts, row)
            calls = (await self._connection.execute(statement)).scalar_one()
        return int(calls)

    async def add_alert(self, group_id: str, alert: BudgetAlert) -> int:
        """Store an alert and return its sequence; 0 when its limit has one in its period already, with a sequence."""
        counted = await insert_or_add(
            self._connection,
            budget_alert_sequences,
            {"group_id": group_id, "last_sequence": 1},
            key=("group_id",),
            add=("last_sequence",),
        )
        sequence = int(counted.last_sequence)
        row = {
            "group_id": group_id,
            **_columns(alert.scope),
            "ceiling": alert.ceiling,
            "limit_name": alert.limit,
            "period": alert.period,
            "id": alert.id,
            "allowed": alert.allowed,
            "used": alert.used,
            "alert_share": alert.alert_share,
            "created_at": alert.created_at,
            "sequence": sequence,
        }
        if await insert_ignore(self._connection, budget_alerts, row):
            return sequence
        # One of the release before, stored while it ran beside this one, is in no stream yet.
        same = (column == row[column.name] for column in budget_alerts.primary_key)
        unnumbered = update(budget_alerts).where(*same, budget_alerts.c.sequence == 0)
        return sequence if (await self._connection.execute(unnumbered.values(sequence=sequence))).rowcount else 0

    async def alerts(self, group_id: str, before: str | None, limit: int) -> list[BudgetAlert]:
        """Return alerts of a group, newest first: those before an id."""
        statement = select(budget_alerts).where(budget_alerts.c.group_id == group_id)
        if before is not None:
            statement = statement.where(budget_alerts.c.id < before)
        rows = await self._connection.execute(statement.order_by(budget_alerts.c.id.desc()).limit(limit))
        return [_alert(row) for row in rows.mappings()]


async def read_budgets(database: Database, group_id: str, model: str, subject: str) -> list[ScopedBudget]:
    """Return the limits that a call of a group has to keep to.

    Every call of a model asks: as one statement it takes a quarter of the exchanges of a transaction.
    """
    statement = select(budgets).where(
        budgets.c.group_id == group_id,
        budgets.c.model.in_(("", model)),
        budgets.c.subject.in_(("", subject)),
    )
    return _scoped(await database.fetch(statement))


async def read_budget(database: Database, group_id: str, scope: Scope) -> ScopedBudget:
    """Return the limits of one scope."""
    found = _scoped(await database.fetch(_of_scope(group_id, scope)))
    return found[0] if found else ScopedBudget(scope)


async def read_alerts_after(database: Database, group_id: str, sequence: int, limit: int) -> list[BudgetAlert]:
    """Return up to `limit` alerts of a group after a sequence, in order."""
    columns = budget_alerts.c
    statement = select(budget_alerts).where(columns.group_id == group_id, columns.sequence > sequence)
    return [_alert(row) for row in await database.fetch(statement.order_by(columns.sequence).limit(limit))]


async def read_last_sequences(database: Database, group_ids: Collection[str]) -> dict[str, int]:
    """Return the sequence of the newest alert of each of these groups that has any."""
    columns = budget_alert_sequences.c
    rows = await database.fetch(select(budget_alert_sequences).where(columns.group_id.in_(group_ids)))
    return {row["group_id"]: row["last_sequence"] for row in rows}


def _alert(row: Mapping[Any, Any]) -> BudgetAlert:
    return BudgetAlert(
        id=row["id"],
        scope=Scope(row["model"], row["subject"]),
        limit=row["limit_name"],
        period=row["period"],
        allowed=row["allowed"],
        used=row["used"],
        alert_share=row["alert_share"],
        ceiling=row["ceiling"],
        created_at=row["created_at"],
        sequence=row["sequence"],
    )


def _of_scope(group_id: str, scope: Scope) -> Select[Any]:
    return select(budgets).where(
        budgets.c.group_id == group_id, budgets.c.model == scope.model, budgets.c.subject == scope.subject
    )


def _columns(scope: Scope) -> dict[str, str]:
    return {"model": scope.model, "subject": scope.subject}


def _scoped(rows: Sequence[Mapping[Any, Any]]) -> list[ScopedBudget]:
    """Return the limits in rows, in the order of the rows."""
    found: dict[Scope, dict[bool, Budget]] = {}
    for row in rows:
        limits = Budget(**{name: row[name] for name in _LIMITS})
        found.setdefault(Scope(row["model"], row["subject"]), {})[bool(row["ceiling"])] = limits
    return [
        ScopedBudget(scope, limits.get(False, Budget()), limits.get(True, Budget())) for scope, limits in found.items()
    ]

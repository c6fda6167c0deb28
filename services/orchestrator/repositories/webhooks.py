"""Webhooks and their deliveries in SQL."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.named_locks import lock_name
from services.common.db.upsert import insert_missing
from services.orchestrator.domain.group_event import EventFilter, Position
from services.orchestrator.domain.webhook import (
    Backlog,
    Binding,
    Delivery,
    DeliveryState,
    PayloadForm,
    Webhook,
    WebhookPlan,
)
from services.orchestrator.repositories.webhook_work import ACTIVE, BODY_BYTES, PENDING, execution_news
from services.orchestrator.tables import executions, webhook_deliveries, webhooks

_PAUSED = and_(webhooks.c.paused, webhooks.c.held)
_ENDED = exists().where(executions.c.id == webhooks.c.execution_id, executions.c.ended_at.is_not(None))


@dataclass(frozen=True, slots=True)
class BoundCounts:
    """How many webhooks of single executions or tasks there are."""

    open: int
    """Of those that have not ended."""
    all: int


class WebhookRepository:
    """The webhooks of groups, and what was and is to be posted to them."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, webhook: Webhook) -> None:
        """Store a new webhook."""
        position, bound = webhook.position, webhook.bound
        await self._connection.execute(
            insert(webhooks).values(
                id=webhook.id,
                position_transaction=position.transaction_id,
                position_id=position.id,
                sender="",
                created_at=webhook.created_at,
                group_id=webhook.group_id,
                execution_id=None if bound is None else bound.execution_id,
                task_id=bound.task_id or None if bound is not None else None,
                config_id=bound.config_id or None if bound is not None else None,
                sequence=None if bound is None else bound.sequence,
                **_changing(webhook),
            )
        )

    async def lock_group(self, group_id: str) -> None:
        """Let nobody else add webhooks to a group until the transaction ends."""
        await lock_name(self._connection, f"coxswain-webhooks {group_id}")

    async def count(self, group_id: str) -> int:
        """Return how many webhooks a group has, without those of single executions."""
        count = select(func.count()).where(webhooks.c.group_id == group_id, webhooks.c.sequence.is_(None))
        return await self._connection.scalar(count) or 0

    async def get(self, group_id: str, webhook_id: str, *, lock: bool = False) -> Webhook | None:
        """Return a webhook; with `lock`, nobody else changes it until the transaction ends."""
        query = select(webhooks).where(webhooks.c.group_id == group_id, webhooks.c.id == webhook_id)
        return await self._one(query.with_for_update() if lock else query)

    async def count_bound(self, group_id: str, subject: str) -> tuple["BoundCounts", "BoundCounts"]:
        """Count the webhooks of single executions or tasks of a group that events are posted to, and a subject's."""
        theirs = webhooks.c.subject == subject
        counts = select(
            func.count().filter(~_ENDED),
            func.count(),
            func.count().filter(~_ENDED, theirs),
            func.count().filter(theirs),
        )
        counts = counts.where(webhooks.c.group_id == group_id, webhooks.c.sequence.is_not(None), ACTIVE)
        found = (await self._connection.execute(counts)).one()
        return BoundCounts(*found[:2]), BoundCounts(*found[2:])

    async def page(
        self, group_id: str, execution_id: str, after: str | None, limit: int, *, bound: bool = False
    ) -> list[Webhook]:
        """Return webhooks with an id behind `after`, oldest first.

        Those of an execution; without one, those of all executions, or (`bound`) of single ones and of tasks.
        """
        of_all = webhooks.c.sequence.is_(None)
        chosen = webhooks.c.execution_id == execution_id if execution_id else ~of_all if bound else of_all
        query = select(webhooks).where(webhooks.c.group_id == group_id, chosen)
        if after is not None:
            query = query.where(webhooks.c.id > after)
        return [_webhook(row) for row in await self._connection.execute(query.order_by(webhooks.c.id).limit(limit))]

    async def of_task(self, task_id: str, config_id: str = "", *, lock: bool = False) -> list[Webhook]:
        """Return the push notification configs of a task, oldest first, or the one of an id; for `lock` see `get`."""
        query = select(webhooks).where(webhooks.c.task_id == task_id).order_by(webhooks.c.id)
        if config_id:
            query = query.where(webhooks.c.config_id == config_id)
        rows = await self._connection.execute(query.with_for_update() if lock else query)
        return [_webhook(row) for row in rows]

    async def bind(self, task_id: str, execution_id: str) -> None:
        """Let the push notification configs of a locked task follow its execution, which is new."""
        ids = [webhook.id for webhook in await self.of_task(task_id, lock=True)]
        await self._connection.execute(update(webhooks).where(webhooks.c.id.in_(ids)).values(execution_id=execution_id))

    async def save(self, webhook: Webhook) -> None:
        """Store a locked webhook as it is now, but for its position."""
        await self._connection.execute(update(webhooks).where(webhooks.c.id == webhook.id).values(**_changing(webhook)))

    async def delete(self, group_id: str, webhook_id: str) -> bool:
        """Delete a webhook with its deliveries; return whether the group had it."""
        deleted = delete(webhooks).where(webhooks.c.group_id == group_id, webhooks.c.id == webhook_id)
        return bool((await self._connection.execute(deleted)).rowcount)

    async def claim(self, webhook_id: str, sender: str, now: datetime, until: datetime) -> Webhook | None:
        """Let one process send for a while, and return the webhook; None: another one does, or it is paused."""
        free = or_(webhooks.c.sender_until.is_(None), webhooks.c.sender_until < now, webhooks.c.sender == sender)
        claimed = (
            update(webhooks)
            .where(webhooks.c.id == webhook_id, ~_PAUSED, free)
            .values(sender=sender, sender_until=until)
            .returning(*webhooks.c)
        )
        row = (await self._connection.execute(claimed)).first()
        return None if row is None else _webhook(row)

    async def release(self, webhook_id: str, sender: str) -> Webhook | None:
        """Let go of a claim, lock the webhook and return it; None when the process does not have it any more."""
        released = (
            update(webhooks)
            .where(webhooks.c.id == webhook_id, webhooks.c.sender == sender)
            .values(sender="", sender_until=None)
            .returning(*webhooks.c)
        )
        row = (await self._connection.execute(released)).first()
        return None if row is None else _webhook(row)

    async def advance(self, webhook_id: str, sender: str, to: Position | int) -> bool:
        """Note how far a claimed webhook has come in the events of its group, or of its execution.

        False when the claim is lost.
        """
        moved = update(webhooks).where(webhooks.c.id == webhook_id, webhooks.c.sender == sender)
        values = (
            {"position_transaction": to.transaction_id, "position_id": to.id}
            if isinstance(to, Position)
            else {"sequence": to}
        )
        return bool((await self._connection.execute(moved.values(values))).rowcount)

    async def finish(self, webhook_id: str) -> None:
        """Take no more notice of a webhook whose execution has ended, once all is posted."""
        pending = exists().where(webhook_deliveries.c.webhook_id == webhooks.c.id, PENDING)
        await self._connection.execute(
            update(webhooks)
            .where(webhooks.c.id == webhook_id, _ENDED, ~execution_news(), ~pending)
            .values(finished=True)
        )

    async def reopen(self, webhook_id: str) -> None:
        """Take notice of a webhook again."""
        await self._connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(finished=False))

    async def stop(self, webhook_id: str, now: datetime) -> None:
        """Pause a locked webhook whose receiver is gone."""
        await self._connection.execute(
            update(webhooks)
            .where(webhooks.c.id == webhook_id)
            .values(paused=True, held=True, gone=True, updated_at=now, revision=webhooks.c.revision + 1)
        )

    async def fail_pending(self, webhook_id: str, now: datetime) -> None:
        """End the deliveries of a locked webhook that nobody will take."""
        await self._connection.execute(
            update(webhook_deliveries)
            .where(webhook_deliveries.c.webhook_id == webhook_id, PENDING)
            .values(state=DeliveryState.FAILED, next_attempt_at=None, ended_at=now)
        )

    async def pause_group(self, group_id: str, before: datetime, now: datetime) -> int:
        """Pause the webhooks of a group that nobody has changed since a moment; return how many."""
        return await self._pause(before, now, webhooks.c.group_id == group_id)

    async def bound_subjects(self) -> set[str]:
        """Return whose webhooks of single executions or tasks are posted to."""
        found = select(webhooks.c.subject).where(webhooks.c.sequence.is_not(None), ACTIVE)
        return set(await self._connection.scalars(found.distinct()))

    async def pause_bound(self, subject: str, group_id: str, before: datetime, now: datetime) -> int:
        """Pause what a subject had bound to executions or tasks of a group ("" for all), as `pause_group` does."""
        of_subject = [webhooks.c.subject == subject, webhooks.c.sequence.is_not(None)]
        return await self._pause(before, now, *of_subject, *([webhooks.c.group_id == group_id] if group_id else []))

    async def _pause(self, before: datetime, now: datetime, *which: ColumnElement[bool]) -> int:
        found = select(webhooks.c.id).where(*which, webhooks.c.updated_at < before, ACTIVE)
        # In the order of all who lock several.
        ids = list(await self._connection.scalars(found.order_by(webhooks.c.id).with_for_update()))
        paused = update(webhooks).where(webhooks.c.id.in_(ids))
        await self._connection.execute(
            paused.values(paused=True, held=True, updated_at=now, revision=webhooks.c.revision + 1)
        )
        return len(ids)

    async def standing(self, execution_ids: Collection[str]) -> set[str]:
        """Return which executions are there, and keep them from being deleted until the transaction ends.

        Executions are locked before webhooks, and webhooks before deliveries.
        """
        found = select(executions.c.id).where(executions.c.id.in_(execution_ids)).order_by(executions.c.id)
        return set(await self._connection.scalars(found.with_for_update(read=True, key_share=True)))

    async def lock_of(self, execution_ids: Collection[str]) -> None:
        """Lock the webhooks that are bound to locked executions, or have deliveries of these."""
        posted = select(webhook_deliveries.c.webhook_id).where(webhook_deliveries.c.execution_id.in_(execution_ids))
        found = select(webhooks.c.id).where(
            or_(webhooks.c.execution_id.in_(execution_ids), webhooks.c.id.in_(posted)),
        )
        await self._connection.execute(found.order_by(webhooks.c.id).with_for_update())

    async def add(self, deliveries: Sequence[Delivery]) -> None:
        """Store new deliveries of a claimed webhook, at least one; the first of each execution is due at once.

        So are those of events of schedules.

        Those of events that have a delivery already are left out: in a database that was restored on another server
        events are read again.
        """
        await insert_missing(self._connection, webhook_deliveries, [_columns(delivery) for delivery in deliveries])
        for webhook_id, execution_id in dict.fromkeys((each.webhook_id, each.execution_id) for each in deliveries):
            await self.promote(webhook_id, execution_id, deliveries[0].created_at)

    async def promote(self, webhook_id: str, execution_id: str, now: datetime) -> None:
        """Make the first pending delivery of an execution due, unless one is already; "" for all without one."""
        if not execution_id:
            await self._connection.execute(
                update(webhook_deliveries)
                .where(
                    webhook_deliveries.c.webhook_id == webhook_id,
                    webhook_deliveries.c.execution_id.is_(None),
                    PENDING,
                    webhook_deliveries.c.next_attempt_at.is_(None),
                )
                .values(next_attempt_at=now)
            )
            return
        same = (webhook_deliveries.c.webhook_id == webhook_id) & (webhook_deliveries.c.execution_id == execution_id)
        other = webhook_deliveries.alias()
        waits = exists().where(
            other.c.webhook_id == webhook_id,
            other.c.execution_id == execution_id,
            other.c.state == DeliveryState.PENDING,
            other.c.next_attempt_at.is_not(None),
        )
        first = select(func.min(webhook_deliveries.c.sequence)).where(same, PENDING).scalar_subquery()
        await self._connection.execute(
            update(webhook_deliveries)
            .where(same, PENDING, webhook_deliveries.c.sequence == first, ~waits)
            .values(next_attempt_at=now)
        )

    async def due(self, webhook_id: str, now: datetime, limit: int) -> list[Delivery]:
        """Return deliveries of a webhook that are due, longest due first, at most one of each execution."""
        query = select(webhook_deliveries).where(
            webhook_deliveries.c.webhook_id == webhook_id, webhook_deliveries.c.next_attempt_at <= now
        )
        rows = await self._connection.execute(query.order_by(webhook_deliveries.c.next_attempt_at).limit(limit))
        return [_delivery(row) for row in rows]

    async def pending(self, webhook_id: str) -> Backlog:
        """Return what waits of a webhook's deliveries."""
        sums = select(func.count(), BODY_BYTES).where(webhook_deliveries.c.webhook_id == webhook_id, PENDING)
        count, size = (await self._connection.execute(sums)).one()
        return Backlog(count, int(size))

    async def save_delivery(self, delivery: Delivery) -> None:
        """Store a delivery of a locked webhook as it is now, if it is still there."""
        await self._connection.execute(
            update(webhook_deliveries).where(webhook_deliveries.c.id == delivery.id).values(**_columns(delivery))
        )

    async def deliveries_of_ids(self, delivery_ids: Collection[str]) -> list[Delivery]:
        """Return those of the deliveries that are there."""
        query = select(webhook_deliveries).where(webhook_deliveries.c.id.in_(delivery_ids))
        return [_delivery(row) for row in await self._connection.execute(query)]

    async def get_delivery(self, group_id: str, delivery_id: str) -> Delivery | None:
        """Return a delivery."""
        query = (
            select(webhook_deliveries)
            .join(webhooks, webhooks.c.id == webhook_deliveries.c.webhook_id)
            .where(webhooks.c.group_id == group_id, webhook_deliveries.c.id == delivery_id)
        )
        row = (await self._connection.execute(query)).first()
        return None if row is None else _delivery(row)

    async def deliveries(
        self, webhook_id: str, state: DeliveryState | None, execution_id: str, before: str | None, limit: int
    ) -> list[Delivery]:
        """Return deliveries of a webhook with an id below `before`, newest first."""
        query = select(webhook_deliveries).where(webhook_deliveries.c.webhook_id == webhook_id)
        if state is not None:
            query = query.where(webhook_deliveries.c.state == state)
        if execution_id:
            query = query.where(webhook_deliveries.c.execution_id == execution_id)
        if before is not None:
            query = query.where(webhook_deliveries.c.id < before)
        rows = await self._connection.execute(query.order_by(webhook_deliveries.c.id.desc()).limit(limit))
        return [_delivery(row) for row in rows]

    async def _one(self, query: Select[Any]) -> Webhook | None:
        row = (await self._connection.execute(query)).first()
        return None if row is None else _webhook(row)


def _changing(webhook: Webhook) -> dict[str, Any]:
    plan, chosen = webhook.plan, webhook.plan.chosen
    return {
        "url": plan.url,
        "sealed_key": webhook.sealed_key,
        "former_key": webhook.former_key,
        "former_key_until": webhook.former_key_until,
        "form": PayloadForm.NOTIFICATION if webhook.bound is None else webhook.bound.form,
        "finished": False,
        "description": plan.description,
        "chosen": {
            "kinds": sorted(chosen.kinds),
            "crew_id": chosen.crew_id,
            "schedule_id": chosen.schedule_id,
            "labels": dict(chosen.labels),
        },
        "paused": plan.paused or webhook.bound is not None,
        "held": plan.paused or webhook.bound is None,
        "gone": webhook.gone,
        "subject": webhook.subject,
        "revision": webhook.revision,
        "updated_at": webhook.updated_at,
    }


def _webhook(row: Row[Any]) -> Webhook:
    chosen = row.chosen
    return Webhook(
        id=row.id,
        group_id=row.group_id,
        plan=WebhookPlan(
            url=row.url,
            description=row.description,
            chosen=EventFilter(
                kinds=frozenset(chosen["kinds"]),
                crew_id=chosen["crew_id"],
                schedule_id=chosen["schedule_id"],
                labels=chosen["labels"],
            ),
            paused=row.paused and row.held,
        ),
        sealed_key=row.sealed_key,
        position=Position(row.position_transaction, row.position_id),
        subject=row.subject,
        revision=row.revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
        gone=row.gone,
        bound=None if row.sequence is None else _binding(row),
        former_key=row.former_key,
        former_key_until=row.former_key_until,
    )


def _binding(row: Row[Any]) -> Binding:
    return Binding(
        sequence=row.sequence,
        execution_id=row.execution_id,
        task_id=row.task_id or "",
        config_id=row.config_id or "",
        form=PayloadForm(row.form),
    )


_DELIVERY_FIELDS = tuple(column.name for column in webhook_deliveries.c)


def _columns(delivery: Delivery) -> dict[str, Any]:
    columns = {name: getattr(delivery, name) for name in _DELIVERY_FIELDS}
    return columns | {"execution_id": delivery.execution_id or None}


def _delivery(row: Row[Any]) -> Delivery:
    values = {name: getattr(row, name) for name in _DELIVERY_FIELDS} | {"execution_id": row.execution_id or ""}
    return Delivery(**values | {"state": DeliveryState(row.state)})

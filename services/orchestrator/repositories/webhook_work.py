"""What webhooks of all groups have to do."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select, text, tuple_

from services.common.db.database import Database
from services.orchestrator.domain.webhook import Backlog, DeliveryState
from services.orchestrator.repositories.group_events import is_settled
from services.orchestrator.tables import group_events, webhook_deliveries, webhooks

PENDING = webhook_deliveries.c.state == DeliveryState.PENDING
"""The condition that a delivery has not ended."""
BODY_BYTES = func.coalesce(func.sum(func.length(webhook_deliveries.c.body)), 0)
"""The sum over deliveries."""
ACTIVE = text("NOT (webhooks.paused AND webhooks.held) AND NOT webhooks.finished")
"""The condition that events are posted to a webhook, as the index says it."""


@dataclass(frozen=True, slots=True)
class ReadyWebhook:
    """A webhook with something to do now."""

    group_id: str
    webhook_id: str
    due: bool
    """Whether a delivery is due; otherwise there are new events alone."""
    bound: bool
    """Whether it is for one execution alone."""


@dataclass(frozen=True, slots=True)
class WebhookWork:
    """What webhooks of all groups wait for."""

    ready: list[ReadyWebhook]
    """Those that no process sends for."""
    groups: frozenset[str]
    """Whose events are posted."""
    next_attempt_at: datetime | None
    """When something is due that is not yet."""


async def read_webhook_work(database: Database, now: datetime, most_pending: Backlog) -> WebhookWork:
    """Return what is to be done; a webhook with `most_pending` deliveries, or bytes in them, takes no new events."""
    room, news = _has_room(most_pending), _news(database.dialect)
    next_attempt = (
        select(func.min(webhook_deliveries.c.next_attempt_at))
        .where(webhook_deliveries.c.webhook_id == webhooks.c.id, webhook_deliveries.c.next_attempt_at.is_not(None))
        .scalar_subquery()
    )
    free = or_(webhooks.c.sender_until.is_(None), webhooks.c.sender_until < now)
    rows = await database.fetch(
        select(
            webhooks.c.id,
            webhooks.c.group_id,
            webhooks.c.sequence.is_not(None).label("bound"),
            # In this order, as a backlog takes long to count.
            case((~free, False), (next_attempt <= now, True), (~news, False), else_=room).label("ready"),
            next_attempt.label("next_attempt_at"),
        ).where(ACTIVE)
    )
    times = [row["next_attempt_at"] for row in rows if row["next_attempt_at"] is not None]
    return WebhookWork(
        ready=[
            ReadyWebhook(
                row["group_id"],
                row["id"],
                due=row["next_attempt_at"] is not None and row["next_attempt_at"] <= now,
                bound=row["bound"],
            )
            for row in rows
            if row["ready"]
        ],
        groups=frozenset(row["group_id"] for row in rows),
        next_attempt_at=min((time for time in times if time > now), default=None),
    )


@dataclass(frozen=True, slots=True)
class WebhookLag:
    """Since when events wait for webhooks that are on."""

    untried_since: datetime | None
    """That could be posted, and have not been once."""
    undelivered_since: datetime | None


async def read_webhook_lag(database: Database, most_pending: Backlog) -> WebhookLag:
    """Return since when the oldest events wait; those behind `most_pending` deliveries wait for these."""
    of_group = (
        select(group_events.c.stored_at)
        .where(_after_position())
        .order_by(group_events.c.transaction_id, group_events.c.id)
        .limit(1)
        .scalar_subquery()
    )
    of_execution = (
        select(group_events.c.stored_at)
        .where(_after_sequence())
        .order_by(group_events.c.sequence)
        .limit(1)
        .scalar_subquery()
    )
    waiting = case((webhooks.c.sequence.is_(None), of_group), else_=of_execution)
    taken = case((_has_room(most_pending), waiting))
    unmade = select(func.min(waiting).label("all"), func.min(taken).label("untried")).where(ACTIVE)
    of_active = webhook_deliveries.join(webhooks, webhooks.c.id == webhook_deliveries.c.webhook_id)
    first = (webhook_deliveries.c.attempts == 0) & webhook_deliveries.c.next_attempt_at.is_not(None)
    made = (
        select(
            func.min(webhook_deliveries.c.created_at).label("all"),
            func.min(case((first, webhook_deliveries.c.created_at))).label("untried"),
        )
        .select_from(of_active)
        .where(ACTIVE, PENDING)
    )
    rows = [(await database.fetch(query))[0] for query in (unmade, made)]
    oldest = {name: [row[name] for row in rows if row[name] is not None] for name in ("all", "untried")}
    return WebhookLag(min(oldest["untried"], default=None), min(oldest["all"], default=None))


def _has_room(most: Backlog) -> Any:
    return (
        select((func.count() < most.deliveries) & (most.size > BODY_BYTES))
        .select_from(webhook_deliveries)
        .where(webhook_deliveries.c.webhook_id == webhooks.c.id, PENDING)
        .scalar_subquery()
    )


def _news(dialect: str) -> ColumnElement[bool]:
    of_group = exists().where(_after_position(), is_settled(dialect))
    return case((webhooks.c.sequence.is_(None), of_group), else_=execution_news())


def _after_position() -> ColumnElement[bool]:
    return and_(
        group_events.c.group_id == webhooks.c.group_id,
        tuple_(group_events.c.transaction_id, group_events.c.id)
        > tuple_(webhooks.c.position_transaction, webhooks.c.position_id),
    )


def _after_sequence() -> ColumnElement[bool]:
    return and_(group_events.c.execution_id == webhooks.c.execution_id, group_events.c.sequence > webhooks.c.sequence)


def execution_news() -> ColumnElement[bool]:
    """Return the condition that the execution of a webhook has events that have not become deliveries."""
    return exists().where(_after_sequence())

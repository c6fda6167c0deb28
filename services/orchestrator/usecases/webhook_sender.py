"""Posts events of groups to the receivers that they have chosen.

Events are stored in the transaction of the change, and read in the order of their commits; worker hosts of any release
store them. Each webhook is at a position among them. What follows becomes its deliveries, in the transaction that moves
the position on. One process at a time does so for a webhook, and posts what is due: the deliveries of an execution one
after the other.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from prometheus_client import Counter

from services.common.background import BackgroundTasks
from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.counts import from_the_start
from services.common.db.database import Database
from services.common.db.expiry import remove_before
from services.common.group_turns import GroupTurns, working_for
from services.common.ids import new_id
from services.common.periodic import once
from services.orchestrator.domain.group_event import GroupEvent
from services.orchestrator.domain.webhook import Attempt, Delivery, DeliveryState, Webhook
from services.orchestrator.repositories.group_events import GroupEventReader
from services.orchestrator.repositories.webhooks import WebhookRepository, read_webhook_work
from services.orchestrator.tables import webhook_deliveries
from services.orchestrator.usecases.hinted_loop import Pending
from services.orchestrator.webhook_client import WebhookClient

logger = structlog.get_logger(__name__)

Render = Callable[[str, str, GroupEvent], bytes]
"""Makes the body of a delivery of its id, the webhook's, and the event."""

_ATTEMPTS = from_the_start(
    Counter(
        "coxswain_webhook_attempts_total",
        "Attempts of this process to post events to webhooks, by what came of them.",
        ("outcome",),
    ),
    ("delivered", "postponed", "failed", "gone"),
)
# Deliveries of a webhook that have not ended; more events wait where they are stored.
_MOST_PENDING = 1000
_EVENTS_AT_ONCE = 100
_POSTS_AT_ONCE = 4
_WEBHOOKS_AT_ONCE = 16
# Ten seconds of posting, and what is stored before and after.
_CLAIM = timedelta(seconds=20)
_BACKOFF = Backoff(1.0, 300.0, jitter=0.2)
_MOST_ATTEMPTS = 12
_LONGEST_TRIAL = timedelta(hours=24)


class WebhookSender:
    """Makes deliveries of events, and attempts of deliveries."""

    def __init__(
        self,
        database: Database,
        events: GroupEventReader,
        client: WebhookClient,
        render: Render,
        *,
        retention_seconds: float,
    ) -> None:
        """Deliveries that have ended are kept for `retention_seconds`."""
        self._database = database
        self._events = events
        self._client = client
        self._render = render
        self._retention = timedelta(seconds=retention_seconds)
        self._sender = new_id()
        self._turns = GroupTurns(_WEBHOOKS_AT_ONCE)
        self._serving: set[str] = set()
        self._tasks = BackgroundTasks()

    async def once(self) -> Pending:
        """Begin with what is to be sent now, and return what later rounds have to do."""
        work = await read_webhook_work(self._database, utc_now(), _MOST_PENDING)
        for group_id, webhook_id in work.ready:
            if webhook_id not in self._serving:
                self._serving.add(webhook_id)
                self._tasks.start(self._serve(group_id, webhook_id))
        seconds = None
        if work.next_attempt_at is not None:
            seconds = max(0.0, (work.next_attempt_at - utc_now()).total_seconds())
        return Pending(groups=work.groups, seconds=seconds)

    async def stop(self) -> None:
        """End the attempts that run; those that were not recorded are made again, here or elsewhere."""
        await self._tasks.stop()

    async def forget(self) -> None:
        """Remove deliveries that ended long ago. Replicas may do it at once."""
        await remove_before(self._database, webhook_deliveries.c.ended_at, utc_now() - self._retention)

    async def _serve(self, group_id: str, webhook_id: str) -> None:
        try:
            with working_for(group_id):
                await once(lambda: self._send_all(group_id, webhook_id), "webhooks")
        finally:
            self._serving.discard(webhook_id)

    async def _send_all(self, group_id: str, webhook_id: str) -> None:
        more = True
        while more:
            async with self._turns.place(group_id):
                more = await self._send_some(webhook_id)

    async def _send_some(self, webhook_id: str) -> bool:
        """Store and make some deliveries of a webhook; return whether there may be more that are due."""
        now = utc_now()
        async with self._database.write() as connection:
            webhook = await WebhookRepository(connection).claim(webhook_id, self._sender, now, now + _CLAIM)
        if webhook is None:
            return False
        recorded = False
        try:
            moved = await self._take(webhook)
            async with self._database.read() as connection:
                due = await WebhookRepository(connection).due(webhook_id, utc_now(), _POSTS_AT_ONCE)
            attempts = await asyncio.gather(*(self._client.post(webhook, delivery) for delivery in due))
            await self._record(webhook, list(zip(due, attempts, strict=True)))
            recorded = True
        finally:
            if not recorded:
                await asyncio.shield(self._release(webhook_id))
        return moved or bool(due)

    async def _take(self, webhook: Webhook) -> bool:
        """Make deliveries of new events of a claimed webhook; return whether there were events."""
        read = await self._events.after(webhook.group_id, webhook.position, _EVENTS_AT_ONCE)
        if not read.events:
            return False
        async with self._database.write() as connection:
            webhooks = WebhookRepository(connection)
            room = max(0, _MOST_PENDING - await webhooks.pending(webhook.id))
            events = read.events[:room]
            if not events or not await webhooks.advance(webhook.id, self._sender, events[-1].position):
                return False
            chosen = [event for event in events if webhook.plan.chosen.shows(event)]
            standing = await webhooks.standing({event.execution_id for event in chosen})
            new = [self._delivery(webhook, event) for event in chosen if event.execution_id in standing]
            if new:
                await webhooks.add(new)
        return True

    def _delivery(self, webhook: Webhook, event: GroupEvent) -> Delivery:
        delivery_id = new_id()
        return Delivery(
            id=delivery_id,
            webhook_id=webhook.id,
            execution_id=event.execution_id,
            sequence=event.event.sequence,
            kind=event.event.kind,
            state=DeliveryState.PENDING,
            attempts=0,
            last_status=0,
            last_error="",
            body=self._render(delivery_id, webhook.id, event),
            created_at=utc_now(),
            first_attempt_at=None,
            next_attempt_at=None,
            ended_at=None,
        )

    async def _record(self, webhook: Webhook, made: list[tuple[Delivery, Attempt]]) -> None:
        now = utc_now()
        async with self._database.write() as connection:
            webhooks = WebhookRepository(connection)
            if not await webhooks.held(webhook.id, self._sender):
                # It was deleted, or another process went on because this one took too long.
                return
            tried = [(after_attempt(delivery, attempt, now), attempt) for delivery, attempt in made]
            for delivery, _ in tried:
                await webhooks.save_delivery(delivery)
                if delivery.state is not DeliveryState.PENDING:
                    await webhooks.promote(webhook.id, delivery.execution_id, now)
            if any(attempt.gone for _, attempt in tried):
                await webhooks.stop(webhook.id, now)
        for delivery, attempt in tried:
            _report(webhook, delivery, attempt)

    async def _release(self, webhook_id: str) -> None:
        async with self._database.write() as connection:
            await WebhookRepository(connection).held(webhook_id, self._sender)


def after_attempt(delivery: Delivery, attempt: Attempt, now: datetime) -> Delivery:
    """Return a delivery as it is after an attempt that has ended now."""
    begun = delivery.first_attempt_at or now
    number = delivery.attempts + 1
    tried = replace(
        delivery, attempts=number, last_status=attempt.status, last_error=attempt.error, first_attempt_at=begun
    )
    if not attempt.error:
        return replace(tried, state=DeliveryState.DELIVERED, next_attempt_at=None, ended_at=now)
    if attempt.gone or number >= _MOST_ATTEMPTS or now - begun >= _LONGEST_TRIAL:
        return replace(tried, state=DeliveryState.FAILED, next_attempt_at=None, ended_at=now)
    pause = _BACKOFF.pause(number, at_least=attempt.retry_after or 0.0)
    return replace(tried, next_attempt_at=now + timedelta(seconds=pause))


def _report(webhook: Webhook, delivery: Delivery, attempt: Attempt) -> None:
    if delivery.state is DeliveryState.DELIVERED:
        _ATTEMPTS.labels("delivered").inc()
    elif delivery.state is DeliveryState.PENDING:
        _ATTEMPTS.labels("postponed").inc()
    elif attempt.gone:
        _ATTEMPTS.labels("gone").inc()
        logger.warning("webhook_gone", group_id=webhook.group_id, webhook_id=webhook.id)
    else:
        _ATTEMPTS.labels("failed").inc()
        logger.warning(
            "webhook_delivery_failed",
            group_id=webhook.group_id,
            webhook_id=webhook.id,
            delivery_id=delivery.id,
            execution_id=delivery.execution_id,
            status=attempt.status,
        )

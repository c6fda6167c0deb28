"""Makes deliveries of the events that follow the positions of webhooks."""

import asyncio
import time
from collections.abc import Callable

import structlog

from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import DeadlineExceeded, Unavailable
from services.common.ids import new_id
from services.orchestrator.domain.group_event import GroupEvent
from services.orchestrator.domain.webhook import Delivery, DeliveryState, Webhook
from services.orchestrator.repositories.group_events import GroupEventReader
from services.orchestrator.repositories.webhooks import WebhookRepository

logger = structlog.get_logger(__name__)

Render = Callable[[str, str, GroupEvent], bytes]
"""Makes the body of a delivery of its id, the webhook's, and the event."""

# Deliveries of a webhook that have not ended; more events wait where they are stored.
MOST_PENDING = 1000
_EVENTS_AT_ONCE = 100
_BYTES_AT_ONCE = 4 * 1024 * 1024
_BACKOFF = Backoff(1.0, 60.0, jitter=0.2)


class ClaimLost(Exception):
    """The webhook was deleted, or another process sends for it now."""


class WebhookIntake:
    """Takes events of claimed webhooks."""

    def __init__(self, database: Database, events: GroupEventReader, render: Render, sender: str) -> None:
        """`sender` is who has claimed the webhooks."""
        self._database = database
        self._events = events
        self._render = render
        self._sender = sender
        # By webhook, how often in a row its events could not be taken, and when it is tried again.
        self._failures: dict[str, tuple[int, float]] = {}

    def waits(self, webhook_id: str) -> bool:
        """Return whether the events of a webhook could not be taken a moment ago."""
        return webhook_id in self._failures and time.monotonic() < self._failures[webhook_id][1]

    async def take(self, webhook: Webhook) -> bool:
        """Make deliveries of some new events, and return whether there were any.

        When an event cannot be taken that is logged, and tried again after a growing pause: what is due does not wait.

        Raises:
            ClaimLost: the process may not go on.
            Unavailable: the database does not answer.
        """
        if self.waits(webhook.id):
            return False
        try:
            taken = await self._take(webhook)
        except (ClaimLost, Unavailable, DeadlineExceeded):
            raise
        except Exception:
            number = self._failures.get(webhook.id, (0, 0.0))[0] + 1
            self._failures[webhook.id] = (number, time.monotonic() + _BACKOFF.pause(number))
            logger.exception(
                "webhook_events_not_taken", group_id=webhook.group_id, webhook_id=webhook.id, failures=number
            )
            return False
        self._failures.pop(webhook.id, None)
        return taken

    async def _take(self, webhook: Webhook) -> bool:
        async with self._database.read() as connection:
            pending = await WebhookRepository(connection).pending(webhook.id)
        room = min(_EVENTS_AT_ONCE, MOST_PENDING - pending)
        if room <= 0:
            return False
        read = await self._events.after(webhook.group_id, webhook.position, room)
        if not read.events:
            return False
        position = webhook.position
        made: list[Delivery] = []
        size = 0
        for event in read.events:
            if size >= _BYTES_AT_ONCE:
                break
            position = event.position
            if webhook.plan.chosen.shows(event):
                made.append(await self._delivery(webhook, event))
                size += len(made[-1].body)
        # The next one is made when the one before is through: none of an execution may come behind a later one.
        newest: dict[str, int] = {}
        for delivery in made:
            newest[delivery.execution_id] = max(delivery.sequence, newest.get(delivery.execution_id, 0))
        for event in await self._events.overtaken(webhook.group_id, position, newest):
            if webhook.plan.chosen.shows(event):
                made.append(await self._delivery(webhook, event))
        async with self._database.write() as connection:
            webhooks = WebhookRepository(connection)
            if not await webhooks.advance(webhook.id, self._sender, position):
                raise ClaimLost
            standing = await webhooks.standing({delivery.execution_id for delivery in made})
            new = [delivery for delivery in made if delivery.execution_id in standing]
            if new:
                await webhooks.add(new)
        return True

    async def _delivery(self, webhook: Webhook, event: GroupEvent) -> Delivery:
        # Bodies may be large, and other work waits for the loop.
        await asyncio.sleep(0)
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

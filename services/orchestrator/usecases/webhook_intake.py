"""Makes deliveries of the events that follow the positions of webhooks."""

import time
from collections.abc import Mapping

import structlog

from services.common.backoff import Backoff
from services.common.db.database import Database
from services.common.errors import DeadlineExceeded, Unavailable
from services.orchestrator.domain.webhook import Backlog, PayloadForm, Webhook
from services.orchestrator.repositories.webhooks import WebhookRepository
from services.orchestrator.usecases.webhook_sources import DeliverySource

logger = structlog.get_logger(__name__)

# More events of a webhook wait where they are stored.
MOST_PENDING = Backlog(1000, 16 * 1024 * 1024)
_EVENTS_AT_ONCE = 100
_BACKOFF = Backoff(1.0, 60.0, jitter=0.2)


class ClaimLost(Exception):
    """The webhook was deleted, or another process sends for it now."""


class WebhookIntake:
    """Takes events of claimed webhooks."""

    def __init__(
        self,
        database: Database,
        group: DeliverySource,
        bound: Mapping[PayloadForm, DeliverySource],
        sender: str,
    ) -> None:
        """`bound` are the sources of webhooks of single executions; `sender` is who has claimed the webhooks."""
        self._database = database
        self._group = group
        self._bound = bound
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
        room = min(_EVENTS_AT_ONCE, MOST_PENDING.deliveries - pending.deliveries)
        if room <= 0 or pending.size >= MOST_PENDING.size:
            return False
        source = self._group if webhook.bound is None else self._bound[webhook.bound.form]
        found = await source.after(webhook, room)
        if found is None:
            return False
        async with self._database.write() as connection:
            webhooks = WebhookRepository(connection)
            standing = await webhooks.standing({delivery.execution_id for delivery in found.deliveries}) | {""}
            if not await webhooks.advance(webhook.id, self._sender, found.reached):
                raise ClaimLost
            new = [delivery for delivery in found.deliveries if delivery.execution_id in standing]
            if new:
                await webhooks.add(new)
        return True

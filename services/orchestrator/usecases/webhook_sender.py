"""Posts events of groups to the receivers that they have chosen.

Events are stored in the transaction of the change, and read in the order of their commits; worker hosts of any release
store them. Each webhook is at a position among them. What follows becomes its deliveries, in the transaction that moves
the position on. One process at a time does so for a webhook, and posts what is due: the deliveries of an execution one
after the other.
"""

import asyncio
from collections.abc import Mapping, Sequence
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
from services.common.group_turns import working_for
from services.common.ids import new_id
from services.common.periodic import once
from services.orchestrator.domain.webhook import Attempt, Delivery, DeliveryState, PayloadForm, Webhook
from services.orchestrator.repositories.webhook_work import ReadyWebhook, read_webhook_work
from services.orchestrator.repositories.webhooks import WebhookRepository
from services.orchestrator.tables import webhook_deliveries
from services.orchestrator.usecases.hinted_loop import Pending
from services.orchestrator.usecases.webhook_intake import MOST_PENDING, ClaimLost, WebhookIntake
from services.orchestrator.usecases.webhook_places import WebhookPlaces
from services.orchestrator.usecases.webhook_sources import DeliverySource
from services.orchestrator.webhook_client import WebhookClient

logger = structlog.get_logger(__name__)

_ATTEMPTS = from_the_start(
    Counter(
        "coxswain_webhook_attempts_total",
        "Attempts of this process to post events to webhooks, by what came of them.",
        ("outcome",),
    ),
    ("delivered", "postponed", "failed", "gone"),
)
_POSTS_AT_ONCE = 4
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
        client: WebhookClient,
        group: DeliverySource,
        bound: Mapping[PayloadForm, DeliverySource],
        *,
        retention_seconds: float,
    ) -> None:
        """For `group` and `bound` see `WebhookIntake`. Deliveries that have ended are kept for `retention_seconds`."""
        self._database = database
        self._client = client
        self._retention = timedelta(seconds=retention_seconds)
        self._sender = new_id()
        self._intake = WebhookIntake(database, group, bound, self._sender)
        self._places = WebhookPlaces()
        # Executions are many: their webhooks hold up none of the group.
        self._bound_places = WebhookPlaces()
        self._serving: set[str] = set()
        self._tasks = BackgroundTasks()

    async def once(self) -> Pending:
        """Begin with what is to be sent now, and return what later rounds have to do."""
        work = await read_webhook_work(self._database, utc_now(), MOST_PENDING)
        for ready in work.ready:
            if ready.webhook_id not in self._serving and (ready.due or not self._intake.waits(ready.webhook_id)):
                self._serving.add(ready.webhook_id)
                self._tasks.start(self._serve(ready))
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

    async def _serve(self, ready: ReadyWebhook) -> None:
        try:
            with working_for(ready.group_id):
                await once(lambda: self._send_all(ready), "webhooks")
        finally:
            self._serving.discard(ready.webhook_id)

    async def _send_all(self, ready: ReadyWebhook) -> None:
        places = self._bound_places if ready.bound else self._places
        more = True
        while more:
            async with places.place(ready.group_id):
                more = await self._send_some(ready.webhook_id)

    async def _send_some(self, webhook_id: str) -> bool:
        """Store and make some deliveries of a webhook; return whether there may be more that are due."""
        now = utc_now()
        async with self._database.write() as connection:
            webhook = await WebhookRepository(connection).claim(webhook_id, self._sender, now, now + _CLAIM)
        if webhook is None:
            return False
        recorded = False
        try:
            taken = await self._intake.take(webhook)
            async with self._database.read() as connection:
                due = await WebhookRepository(connection).due(webhook_id, utc_now(), _POSTS_AT_ONCE)
            attempts = await asyncio.gather(*(self._attempt(webhook, delivery) for delivery in due))
            recorded = await self._record(
                webhook, {delivery.id: attempt for delivery, attempt in zip(due, attempts, strict=True)}
            )
        except ClaimLost:
            return False
        finally:
            if not recorded:
                await asyncio.shield(self._release(webhook_id))
        return recorded and (taken or bool(due))

    async def _attempt(self, webhook: Webhook, delivery: Delivery) -> Attempt:
        try:
            return await self._client.post(webhook, delivery)
        except Exception as error:  # noqa: BLE001 - it is logged
            # Its text may hold the address, and that a secret.
            logger.error(  # noqa: TRY400
                "webhook_attempt_failed",
                group_id=webhook.group_id,
                webhook_id=webhook.id,
                delivery_id=delivery.id,
                error=type(error).__name__,
            )
            return Attempt(0, "the attempt failed unexpectedly")

    async def _record(self, webhook: Webhook, attempts: dict[str, Attempt]) -> bool:
        """Store what came of attempts by the ids of their deliveries; return whether the claim was still held."""
        now = utc_now()
        tried: list[tuple[Delivery, Attempt]] = []
        async with self._database.write() as connection:
            webhooks = WebhookRepository(connection)
            present = await webhooks.release(webhook.id, self._sender)
            if present is None:
                # It was deleted, or another process went on because this one took too long.
                return False
            # Read again: a caller may have asked for one of them to be made again meanwhile.
            for delivery in await webhooks.deliveries_of_ids(attempts):
                attempt = attempts[delivery.id]
                if attempt.gone and present.revision != webhook.revision:
                    # The receiver that is gone may have been replaced: the delivery is still due, for the new one.
                    continue
                after = after_attempt(delivery, attempt, now, changed_at=present.updated_at)
                tried.append((after, attempt))
                await webhooks.save_delivery(after)
                if after.state is not DeliveryState.PENDING:
                    await webhooks.promote(webhook.id, after.execution_id, now)
            if any(attempt.gone for _, attempt in tried) or (
                present.revision == webhook.revision and _gives_up(webhook, [delivery for delivery, _ in tried])
            ):
                await webhooks.stop(webhook.id, now)
                if webhook.bound is not None:
                    # Few look after such a webhook: what waits would do so for as long as its execution is kept.
                    await webhooks.fail_pending(webhook.id, now)
            elif webhook.bound is not None:
                await webhooks.finish(webhook.id)
        for after, attempt in tried:
            _report(webhook, after, attempt)
        return True

    async def _release(self, webhook_id: str) -> None:
        async with self._database.write() as connection:
            await WebhookRepository(connection).release(webhook_id, self._sender)


def after_attempt(delivery: Delivery, attempt: Attempt, now: datetime, *, changed_at: datetime) -> Delivery:
    """Return a delivery as it is after an attempt that has ended now; `changed_at` is when its webhook last was."""
    begun = delivery.first_attempt_at or now
    number = delivery.attempts + 1
    tried = replace(
        delivery, attempts=number, last_status=attempt.status, last_error=attempt.error, first_attempt_at=begun
    )
    if not attempt.error:
        return replace(tried, state=DeliveryState.DELIVERED, next_attempt_at=None, ended_at=now)
    # While a webhook is paused nothing is tried.
    if attempt.gone or number >= _MOST_ATTEMPTS or now - max(begun, changed_at) >= _LONGEST_TRIAL:
        return replace(tried, state=DeliveryState.FAILED, next_attempt_at=None, ended_at=now)
    pause = _BACKOFF.pause(number, at_least=attempt.retry_after or 0.0)
    return replace(tried, next_attempt_at=now + timedelta(seconds=pause))


def _gives_up(webhook: Webhook, tried: Sequence[Delivery]) -> bool:
    """Whether nothing more is posted: a client that has not taken one change of its task gets none that follow it."""
    of_task = webhook.bound is not None and webhook.bound.task_id != ""
    return of_task and any(delivery.state is DeliveryState.FAILED for delivery in tried)


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

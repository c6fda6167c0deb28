"""Where the deliveries of webhooks come from."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.common.clock import utc_now
from services.common.ids import new_id
from services.orchestrator.domain.group_event import GroupEvent, Position
from services.orchestrator.domain.webhook import Delivery, DeliveryState, Webhook
from services.orchestrator.repositories.group_events import GroupEventReader

Render = Callable[[str, str, GroupEvent], bytes]
"""Makes the body of a delivery of its id, the webhook's, and the event."""

BYTES_AT_ONCE = 4 * 1024 * 1024
"""Of bodies that are made before they are stored."""


@dataclass(frozen=True, slots=True)
class Found:
    """What follows the position of a webhook."""

    reached: Position | int
    """Where the webhook is then; a sequence for one that is bound to an execution."""
    deliveries: Sequence[Delivery]
    """Of the events that it chooses."""


class DeliverySource(Protocol):
    """Makes deliveries of stored events."""

    async def after(self, webhook: Webhook, limit: int) -> Found | None:
        """Return what follows the position of a webhook, of some `limit` events; None where nothing does."""
        ...


class GroupSource:
    """Events of a group, as notifications."""

    def __init__(self, events: GroupEventReader, render: Render) -> None:
        self._events = events
        self._render = render

    async def after(self, webhook: Webhook, limit: int) -> Found | None:
        """See `DeliverySource`."""
        read = await self._events.after(webhook.group_id, webhook.position, limit)
        if not read.events:
            return None
        position = webhook.position
        made: list[Delivery] = []
        size = 0
        for event in read.events:
            if size >= BYTES_AT_ONCE:
                break
            position = event.position
            if webhook.plan.chosen.shows(event):
                made.append(await _notification(webhook, event, self._render))
                size += len(made[-1].body)
        # The next one is made when the one before is through: none of an execution may come behind a later one.
        newest: dict[str, int] = {}
        for delivery in (delivery for delivery in made if delivery.execution_id):
            newest[delivery.execution_id] = max(delivery.sequence, newest.get(delivery.execution_id, 0))
        for event in await self._events.overtaken(webhook.group_id, position, newest):
            if webhook.plan.chosen.shows(event):
                made.append(await _notification(webhook, event, self._render))
        return Found(position, made)


class ExecutionSource:
    """Events of the execution that a webhook is bound to, as notifications."""

    def __init__(self, events: GroupEventReader, render: Render) -> None:
        self._events = events
        self._render = render

    async def after(self, webhook: Webhook, limit: int) -> Found | None:
        """See `DeliverySource`."""
        bound = webhook.bound
        if bound is None or bound.execution_id is None:
            return None
        events = await self._events.of_execution(webhook.group_id, bound.execution_id, bound.sequence, limit)
        if not events:
            return None
        made = [
            await _notification(webhook, event, self._render) for event in events if webhook.plan.chosen.shows(event)
        ]
        return Found(events[-1].event.sequence, made)


async def _notification(webhook: Webhook, event: GroupEvent, render: Render) -> Delivery:
    # Bodies may be large, and other work waits for the loop.
    await asyncio.sleep(0)
    delivery_id = new_id()
    body = render(delivery_id, webhook.id, event)
    made = new_delivery(delivery_id, webhook, event.execution_id, event.event.sequence, event.event.kind, body)
    return made if event.execution_id else replace(made, event_id=event.position.id)


def new_delivery(
    delivery_id: str, webhook: Webhook, execution_id: str, sequence: int, kind: str, body: bytes
) -> Delivery:
    """Return a delivery that has not been stored."""
    return Delivery(
        id=delivery_id,
        webhook_id=webhook.id,
        execution_id=execution_id,
        sequence=sequence,
        kind=kind,
        state=DeliveryState.PENDING,
        attempts=0,
        last_status=0,
        last_error="",
        body=body,
        created_at=utc_now(),
        first_attempt_at=None,
        next_attempt_at=None,
        ended_at=None,
    )

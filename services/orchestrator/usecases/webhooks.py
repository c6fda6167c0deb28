"""Use cases of WebhookService."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.egress import AddressPolicy
from services.common.errors import Aborted, FieldViolation, InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.common.quotas import quota_exceeded
from services.orchestrator import tables
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.webhook import Delivery, DeliveryState, Webhook, WebhookPlan
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.group_events import GroupEventReader
from services.orchestrator.repositories.webhooks import WebhookRepository
from services.orchestrator.usecases.webhook_limits import MAX_WEBHOOKS
from services.orchestrator.usecases.webhook_urls import refuse_unfit
from services.orchestrator.webhook_client import SigningKeys

_WEBHOOKS = Pager("webhooks")
_DELIVERIES = Pager("webhook_deliveries")
_URL = "webhook.url"


class Webhooks:
    """Keeps the webhooks of groups; `webhook_sender.WebhookSender` posts to them."""

    def __init__(
        self,
        database: Database,
        events: GroupEventReader,
        keys: SigningKeys,
        addresses: AddressPolicy,
        bus: HintBus,
    ) -> None:
        self._database = database
        self._events = events
        self._keys = keys
        self._addresses = addresses
        self._bus = bus

    async def create(self, principal: Principal, plan: WebhookPlan, request: RequestKey | None) -> tuple[Webhook, str]:
        """Store a webhook and return it with its key; a repeated `request` returns the first one's.

        Raises:
            InvalidArgument: its address is not one that can be posted to.
            AlreadyExists: the request_id was used with another body.
            NotFound: the first request's webhook was deleted.
            QuotaExceeded: the group has as many webhooks as it may.
        """
        refuse_unfit(self._addresses, plan.url, _URL)
        webhook_id, now = new_id(), utc_now()
        webhook = Webhook(
            id=webhook_id,
            group_id=principal.group_id,
            plan=plan,
            sealed_key=self._keys.new(webhook_id),
            position=await self._events.settled(),
            subject=principal.subject,
            revision=1,
            created_at=now,
            updated_at=now,
        )
        async with self._database.write() as connection:
            webhooks = WebhookRepository(connection)
            await webhooks.lock_group(principal.group_id)
            if request is not None:
                first_id = await RequestRepository(connection, tables.requests).claim(request, webhook_id)
                if first_id != webhook_id:
                    first = await webhooks.get(principal.group_id, first_id)
                    if first is None:
                        raise NotFound.of("webhook", first_id)
                    return first, self._keys.shown(first)
            await webhooks.insert(webhook)
            if await webhooks.count(principal.group_id) > MAX_WEBHOOKS:
                raise quota_exceeded(
                    "webhooks",
                    MAX_WEBHOOKS,
                    MAX_WEBHOOKS,
                    f"the group has {MAX_WEBHOOKS} webhooks and may not have more; delete one that nobody uses",
                )
        # So that every replica learns whose events are posted.
        self._bus.publish(Hint(HintKind.WORK_STORED, webhook_id))
        return webhook, self._keys.shown(webhook)

    async def get(self, principal: Principal, webhook_id: str) -> Webhook:
        """Return a webhook. Raises NotFound."""
        async with self._database.read() as connection:
            webhook = await WebhookRepository(connection).get(principal.group_id, webhook_id)
        if webhook is None:
            raise NotFound.of("webhook", webhook_id)
        return webhook

    async def page(
        self, principal: Principal, execution_id: str, size: int, token: str, *, bound: bool
    ) -> Page[Webhook]:
        """Return a page of the group's webhooks, oldest first; for `execution_id` and `bound` see the repository.

        Raises InvalidArgument: INVALID_PAGE_TOKEN.
        """
        async with self._database.read() as connection:
            webhooks = WebhookRepository(connection)
            return await _WEBHOOKS.page(
                size,
                token,
                {"group": principal.group_id, "execution": execution_id, "bound": bound},
                lambda after, limit: webhooks.page(
                    principal.group_id, execution_id, after[0] if after else None, limit, bound=bound
                ),
                lambda webhook: [webhook.id],
            )

    async def update(
        self,
        principal: Principal,
        webhook_id: str,
        change: Callable[[Webhook], tuple[WebhookPlan, Sequence[FieldViolation]]],
        expected_revision: int,
    ) -> Webhook:
        """Replace what the group chooses of a webhook; `change` returns that and the rules that it breaks.

        Raises:
            NotFound: the group does not have this webhook.
            InvalidArgument: it breaks rules, or its address is not one that can be posted to.
            Aborted: REVISION_MISMATCH.
        """
        async with self._database.write() as connection:
            webhooks = WebhookRepository(connection)
            present = await webhooks.get(principal.group_id, webhook_id, lock=True)
            if present is None:
                raise NotFound.of("webhook", webhook_id)
            if expected_revision and expected_revision != present.revision:
                raise Aborted.revision("webhook", webhook_id, expected_revision, present.revision)
            plan, broken = change(present)
            if broken:
                raise InvalidArgument.fields(broken)
            if present.bound is not None and plan != replace(present.plan, paused=plan.paused):
                raise InvalidArgument.field("update_mask", "must be paused: nothing else of such a webhook can change")
            if plan.url != present.plan.url:
                # One that is not allowed any more can still be paused.
                refuse_unfit(self._addresses, plan.url, _URL)
            changed = replace(
                present,
                plan=plan,
                subject=principal.subject,
                revision=present.revision + 1,
                updated_at=utc_now(),
                gone=present.gone and plan.paused,
            )
            await webhooks.save(changed)
            await webhooks.finish(webhook_id)
        self._bus.publish(Hint(HintKind.WORK_STORED, webhook_id))
        return changed

    async def rotate(
        self, principal: Principal, webhook_id: str, lifetime: timedelta, request: RequestKey | None
    ) -> tuple[Webhook, str]:
        """Give a webhook another key, and return it with that; the former one signs as well for a while.

        A repeated `request` returns the key that the webhook then has.

        Raises:
            NotFound: the group does not have this webhook.
            InvalidArgument: it has no key, as it posts push notifications of A2A.
            AlreadyExists: the request_id was used with another body.
        """
        async with self._database.write() as connection:
            webhooks = WebhookRepository(connection)
            present = await webhooks.get(principal.group_id, webhook_id, lock=True)
            if present is None:
                raise NotFound.of("webhook", webhook_id)
            if present.bound is not None and present.bound.task_id:
                raise InvalidArgument.field("id", "is that of push notifications of A2A, which no key signs")
            if request is not None:
                requests = RequestRepository(connection, tables.requests)
                if await requests.find(request) is not None:
                    return present, self._keys.shown(present)
                await requests.claim(request, webhook_id)
            now = utc_now()
            changed = replace(
                present,
                sealed_key=self._keys.new(webhook_id),
                former_key=present.sealed_key if lifetime else None,
                former_key_until=now + lifetime if lifetime else None,
                subject=principal.subject,
                revision=present.revision + 1,
                updated_at=now,
            )
            await webhooks.save(changed)
            await webhooks.finish(webhook_id)
        return changed, self._keys.shown(changed)

    async def delete(self, principal: Principal, webhook_id: str) -> bool:
        """Delete a webhook with its deliveries; return whether the group had it."""
        async with self._database.write() as connection:
            return await WebhookRepository(connection).delete(principal.group_id, webhook_id)

    async def deliveries(
        self,
        principal: Principal,
        webhook: Webhook,
        state: DeliveryState | None,
        execution_id: str,
        size: int,
        token: str,
    ) -> Page[Delivery]:
        """Return a page of a webhook's deliveries, newest first. Raises InvalidArgument: INVALID_PAGE_TOKEN."""
        async with self._database.read() as connection:
            webhooks = WebhookRepository(connection)
            return await _DELIVERIES.page(
                size,
                token,
                {"group": principal.group_id, "webhook": webhook.id, "state": state, "execution": execution_id},
                lambda before, limit: webhooks.deliveries(
                    webhook.id, state, execution_id, before[0] if before else None, limit
                ),
                lambda delivery: [delivery.id],
                lambda delivery: len(delivery.body),
            )

    async def retry(self, principal: Principal, delivery_id: str) -> tuple[Webhook, Delivery]:
        """Make a delivery once more, and return it behind its webhook. Raises NotFound."""
        async with self._database.write() as connection:
            webhooks = WebhookRepository(connection)
            found = await webhooks.get_delivery(principal.group_id, delivery_id)
            webhook = None
            if found is not None:
                webhook = await webhooks.get(principal.group_id, found.webhook_id, lock=True)
            if found is None or webhook is None:
                raise NotFound.of("webhook delivery", delivery_id)
            now = utc_now()
            # Read again: an attempt may have been recorded before the lock was there.
            found = await webhooks.get_delivery(principal.group_id, delivery_id) or found
            waits = found.state is DeliveryState.PENDING and found.next_attempt_at is None
            if not waits:
                again = replace(
                    found,
                    state=DeliveryState.PENDING,
                    attempts=0,
                    first_attempt_at=None,
                    next_attempt_at=now if found.state is DeliveryState.PENDING else None,
                    ended_at=None,
                )
                await webhooks.save_delivery(again)
                await webhooks.reopen(found.webhook_id)
                await webhooks.promote(found.webhook_id, found.execution_id, now)
            stored = await webhooks.get_delivery(principal.group_id, delivery_id)
        self._bus.publish(Hint(HintKind.WORK_STORED, delivery_id))
        return webhook, stored or found

"""Use cases of WebhookService."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.egress import AddressPolicy
from services.common.errors import Aborted, FieldViolation, InvalidArgument, NotFound, PermissionDenied
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
from services.orchestrator.webhook_client import SigningKeys

MAX_WEBHOOKS = 32
_WEBHOOKS = Pager("webhooks")
_DELIVERIES = Pager("webhook_deliveries")


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
        self._check_url(plan.url)
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

    async def page(self, principal: Principal, size: int, token: str) -> Page[Webhook]:
        """Return a page of the group's webhooks, oldest first. Raises InvalidArgument: INVALID_PAGE_TOKEN."""
        async with self._database.read() as connection:
            webhooks = WebhookRepository(connection)
            return await _WEBHOOKS.page(
                size,
                token,
                {"group": principal.group_id},
                lambda after, limit: webhooks.page(principal.group_id, after[0] if after else None, limit),
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
            if plan.url != present.plan.url:
                # One that is not allowed any more can still be paused.
                self._check_url(plan.url)
            changed = replace(
                present,
                plan=plan,
                subject=principal.subject,
                revision=present.revision + 1,
                updated_at=utc_now(),
                gone=present.gone and plan.paused,
            )
            await webhooks.save(changed)
        self._bus.publish(Hint(HintKind.WORK_STORED, webhook_id))
        return changed

    async def delete(self, principal: Principal, webhook_id: str) -> bool:
        """Delete a webhook with its deliveries; return whether the group had it."""
        async with self._database.write() as connection:
            return await WebhookRepository(connection).delete(principal.group_id, webhook_id)

    async def deliveries(
        self,
        principal: Principal,
        webhook_id: str,
        state: DeliveryState | None,
        execution_id: str,
        size: int,
        token: str,
    ) -> Page[Delivery]:
        """Return a page of a webhook's deliveries, newest first. Raises NotFound, InvalidArgument."""
        await self.get(principal, webhook_id)
        async with self._database.read() as connection:
            webhooks = WebhookRepository(connection)
            return await _DELIVERIES.page(
                size,
                token,
                {"group": principal.group_id, "webhook": webhook_id, "state": state, "execution": execution_id},
                lambda before, limit: webhooks.deliveries(
                    webhook_id, state, execution_id, before[0] if before else None, limit
                ),
                lambda delivery: [delivery.id],
                lambda delivery: len(delivery.body),
            )

    async def retry(self, principal: Principal, delivery_id: str) -> Delivery:
        """Make a delivery once more. Raises NotFound."""
        async with self._database.write() as connection:
            webhooks = WebhookRepository(connection)
            found = await webhooks.get_delivery(principal.group_id, delivery_id)
            if found is None or await webhooks.get(principal.group_id, found.webhook_id, lock=True) is None:
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
                await webhooks.promote(found.webhook_id, found.execution_id, now)
            stored = await webhooks.get_delivery(principal.group_id, delivery_id)
        self._bus.publish(Hint(HintKind.WORK_STORED, delivery_id))
        return stored or found

    def _check_url(self, url: str) -> None:
        """Refuse an address that nothing may be posted to. What its name resolves to is checked with each attempt."""
        field = "webhook.url"
        try:
            self._addresses.check_literal(url)
        except PermissionDenied as error:
            raise InvalidArgument.field(field, error.message) from None
        scheme = urlsplit(url).scheme if "://" in url else ""
        if scheme != "https" and not (scheme == "http" and self._addresses.permits_plain):
            raise InvalidArgument.field(field, "must begin with https:// and name a public host")

"""Webhooks of single executions, stored with them."""

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey
from services.common.egress import AddressPolicy
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.orchestrator.domain.execution import Execution, Start
from services.orchestrator.domain.group_event import EventFilter
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.webhook import NOWHERE, Binding, ExecutionWebhookPlan, Webhook, WebhookPlan
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.webhooks import WebhookRepository
from services.orchestrator.usecases.executions import Executions
from services.orchestrator.usecases.webhook_limits import refuse_more_bound
from services.orchestrator.usecases.webhook_urls import refuse_unfit
from services.orchestrator.webhook_client import SigningKeys


class ExecutionWebhooks:
    """Starts executions whose events are posted."""

    def __init__(
        self, database: Database, executions: Executions, keys: SigningKeys, addresses: AddressPolicy, bus: HintBus
    ) -> None:
        self._database = database
        self._executions = executions
        self._keys = keys
        self._addresses = addresses
        self._bus = bus

    async def start(
        self, principal: Principal, start: Start, request: RequestKey | None, plan: ExecutionWebhookPlan
    ) -> tuple[Execution, str]:
        """Store an execution with its webhook, and return it with the key of that.

        A repeated `request` returns the same key; an empty one when the webhook is there no more, or was changed.

        Raises:
            InvalidArgument: nothing may be posted to the address.
            QuotaExceeded: see `refuse_more_bound`.
            CoxswainError: see `ExecutionStarter.start`.
        """
        refuse_unfit(self._addresses, plan.url, "webhook.url")

        made: list[Webhook] = []

        async def also_store(connection: AsyncConnection, execution: Execution) -> None:
            made.append(await self._store(connection, execution, plan))

        execution = await self._executions.start(principal, start, request, also_store)
        # So that every replica learns whose events are posted.
        self._bus.publish(Hint(HintKind.WORK_STORED, execution.id))
        if made:
            return execution, self._keys.shown(made[0])
        async with self._database.read() as connection:
            # What StartExecution starts is no task of A2A: it has no other webhook.
            found = await WebhookRepository(connection).page(execution.group_id, execution.id, None, limit=1)
        # A later key is that of who has changed the webhook, which needs a higher role.
        return execution, self._keys.shown(found[0]) if found and found[0].revision == 1 else ""

    async def _store(self, connection: AsyncConnection, execution: Execution, plan: ExecutionWebhookPlan) -> Webhook:
        webhooks, webhook_id, now = WebhookRepository(connection), new_id(), utc_now()
        await refuse_more_bound(webhooks, execution.group_id, execution.subject)
        webhook = Webhook(
            id=webhook_id,
            group_id=execution.group_id,
            plan=WebhookPlan(plan.url, "", EventFilter(kinds=plan.kinds), paused=False),
            sealed_key=self._keys.new(webhook_id),
            position=NOWHERE,
            subject=execution.subject,
            revision=1,
            created_at=now,
            updated_at=now,
            bound=Binding(sequence=0, execution_id=execution.id),
        )
        await webhooks.insert(webhook)
        return webhook

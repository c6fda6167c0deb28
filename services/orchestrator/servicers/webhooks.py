"""WebhookService at the edge."""

from datetime import timedelta

from coxswain.orchestrator.v1 import webhook_pb2 as pb
from coxswain.orchestrator.v1.webhook_service_pb2_grpc import WebhookServiceServicer
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.enums import enum_from_proto
from services.common.grpc.handler import Context
from services.orchestrator.domain.webhook import DeliveryState
from services.orchestrator.messages.webhooks import (
    changed_webhook_plan,
    delivery_to_proto,
    webhook_plan_from_proto,
    webhook_to_proto,
)
from services.orchestrator.usecases.webhooks import Webhooks

_FORMER_KEY_LIFETIME = timedelta(hours=24)


class WebhookServicer(WebhookServiceServicer):
    """Addresses to which events of groups are posted."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def CreateWebhook(self, request: pb.CreateWebhookRequest, context: Context) -> pb.CreateWebhookResponse:
        """See the proto."""
        principal = current_principal()
        plan = webhook_plan_from_proto(request.webhook)
        webhook, key = await self._webhooks.create(principal, plan, request_key(principal, request))
        return pb.CreateWebhookResponse(webhook=webhook_to_proto(webhook), signing_key=key)

    async def GetWebhook(self, request: pb.GetWebhookRequest, context: Context) -> pb.GetWebhookResponse:
        """See the proto."""
        webhook = await self._webhooks.get(current_principal(), request.id)
        return pb.GetWebhookResponse(webhook=webhook_to_proto(webhook))

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, context: Context) -> pb.ListWebhooksResponse:
        """See the proto."""
        page = await self._webhooks.page(
            current_principal(),
            request.execution_id,
            request.page_size,
            request.page_token,
            bound=request.single_executions,
        )
        return pb.ListWebhooksResponse(webhooks=map(webhook_to_proto, page.items), next_page_token=page.next_page_token)

    async def UpdateWebhook(self, request: pb.UpdateWebhookRequest, context: Context) -> pb.UpdateWebhookResponse:
        """See the proto."""
        webhook = await self._webhooks.update(
            current_principal(),
            request.id,
            lambda present: changed_webhook_plan(present, request.webhook, request.update_mask),
            request.expected_revision,
        )
        return pb.UpdateWebhookResponse(webhook=webhook_to_proto(webhook))

    async def RotateWebhookSigningKey(
        self, request: pb.RotateWebhookSigningKeyRequest, context: Context
    ) -> pb.RotateWebhookSigningKeyResponse:
        """See the proto."""
        principal = current_principal()
        lifetime = _FORMER_KEY_LIFETIME
        if request.HasField("former_key_lifetime"):
            lifetime = request.former_key_lifetime.ToTimedelta()
        webhook, key = await self._webhooks.rotate(principal, request.id, lifetime, request_key(principal, request))
        return pb.RotateWebhookSigningKeyResponse(webhook=webhook_to_proto(webhook), signing_key=key)

    async def DeleteWebhook(self, request: pb.DeleteWebhookRequest, context: Context) -> pb.DeleteWebhookResponse:
        """See the proto."""
        return pb.DeleteWebhookResponse(deleted=await self._webhooks.delete(current_principal(), request.id))

    async def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, context: Context
    ) -> pb.ListWebhookDeliveriesResponse:
        """See the proto."""
        state = enum_from_proto(DeliveryState, pb.WebhookDeliveryState, request.state) if request.state else None
        principal = current_principal()
        webhook = await self._webhooks.get(principal, request.webhook_id)
        page = await self._webhooks.deliveries(
            principal,
            webhook,
            state,
            request.execution_id,
            request.page_size,
            request.page_token,
        )
        return pb.ListWebhookDeliveriesResponse(
            deliveries=[delivery_to_proto(webhook, delivery) for delivery in page.items],
            next_page_token=page.next_page_token,
        )

    async def RetryWebhookDelivery(
        self, request: pb.RetryWebhookDeliveryRequest, context: Context
    ) -> pb.RetryWebhookDeliveryResponse:
        """See the proto."""
        return pb.RetryWebhookDeliveryResponse(
            delivery=delivery_to_proto(*await self._webhooks.retry(current_principal(), request.id))
        )

"""Webhooks: messages to domain and back."""

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToJson

from coxswain.orchestrator.v1 import execution_pb2, webhook_pb2
from services.common.errors import FieldViolation
from services.common.grpc.enums import enum_to_proto
from services.common.grpc.field_masks import mask_paths, replace_fields
from services.common.grpc.times import timestamp_to_proto
from services.common.grpc.validation import rule_violations_cutting
from services.orchestrator.domain.group_event import EventFilter, GroupEvent
from services.orchestrator.domain.webhook import (
    Delivery,
    ExecutionWebhookPlan,
    PayloadForm,
    Webhook,
    WebhookPlan,
    event_of,
)
from services.orchestrator.events import event_to_proto, kind_from_proto, kind_to_proto

_CHANGEABLE = frozenset({"url", "description", "crew_id", "schedule_id", "labels", "kinds", "paused"})


def webhook_plan_from_proto(message: webhook_pb2.Webhook) -> WebhookPlan:
    """Return what a caller chooses of a webhook; the message keeps its rules."""
    return WebhookPlan(
        url=message.url,
        description=message.description,
        chosen=EventFilter(
            kinds=frozenset(map(kind_from_proto, message.kinds)),
            crew_id=message.crew_id,
            schedule_id=message.schedule_id,
            labels=dict(message.labels),
        ),
        paused=message.paused,
    )


def execution_webhook_from_proto(message: execution_pb2.ExecutionWebhook) -> ExecutionWebhookPlan:
    """Return where the events of an execution are to be posted; the message keeps its rules."""
    return ExecutionWebhookPlan(message.url, frozenset(map(kind_from_proto, message.kinds)))


def changed_webhook_plan(
    present: Webhook, given: webhook_pb2.Webhook, mask: FieldMask
) -> tuple[WebhookPlan, list[FieldViolation]]:
    """Return the plan of a webhook with the fields that a mask names replaced, and the rules that it then breaks.

    A plan that breaks rules is the present one.

    Raises:
        InvalidArgument: the mask names a field that cannot be changed.
    """
    message = webhook_to_proto(present)
    replace_fields(message, given, mask_paths(mask, _CHANGEABLE))
    broken = rule_violations_cutting(message, "webhook")
    return (present.plan if broken else webhook_plan_from_proto(message)), broken


def webhook_to_proto(webhook: Webhook) -> webhook_pb2.Webhook:
    """Return a webhook as callers see it."""
    plan = webhook.plan
    return webhook_pb2.Webhook(
        id=webhook.id,
        url=plan.url,
        description=plan.description,
        crew_id=plan.chosen.crew_id,
        schedule_id=plan.chosen.schedule_id,
        labels=plan.chosen.labels,
        kinds=sorted(map(kind_to_proto, plan.chosen.kinds)),
        paused=plan.paused,
        gone=webhook.gone,
        subject=webhook.subject,
        create_time=timestamp_to_proto(webhook.created_at),
        update_time=timestamp_to_proto(webhook.updated_at),
        revision=webhook.revision,
        execution_id=webhook.bound.execution_id or "" if webhook.bound else "",
        task_id=webhook.bound.task_id if webhook.bound else "",
    )


def delivery_to_proto(webhook: Webhook, delivery: Delivery) -> webhook_pb2.WebhookDelivery:
    """Return a delivery of a webhook as callers see it."""
    placed = webhook.bound is not None and webhook.bound.form is not PayloadForm.NOTIFICATION
    return webhook_pb2.WebhookDelivery(
        id=delivery.id,
        webhook_id=delivery.webhook_id,
        execution_id=delivery.execution_id,
        sequence=event_of(delivery.sequence)[0] if placed else delivery.sequence,
        kind=kind_to_proto(delivery.kind),
        state=enum_to_proto(webhook_pb2.WebhookDeliveryState, delivery.state),
        attempts=delivery.attempts,
        last_status_code=delivery.last_status,
        last_error=delivery.last_error,
        create_time=timestamp_to_proto(delivery.created_at),
        next_attempt_time=timestamp_to_proto(delivery.next_attempt_at),
        end_time=timestamp_to_proto(delivery.ended_at),
    )


def notification_body(delivery_id: str, webhook_id: str, event: GroupEvent) -> bytes:
    """Return what is posted of an event."""
    notification = webhook_pb2.WebhookNotification(
        id=delivery_id,
        webhook_id=webhook_id,
        event=event_to_proto(event.execution_id, event.event),
        crew_id=event.crew_id,
        crew_name=event.crew_name,
        schedule_id=event.schedule_id,
        batch_id=event.batch_id,
        labels=event.labels,
    )
    return MessageToJson(notification, indent=None).encode()

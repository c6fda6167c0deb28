"""Push notification configs, and what is posted."""

from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format

from services.common.errors import InvalidArgument
from services.orchestrator.domain.a2a import TaskRow
from services.orchestrator.domain.webhook import PayloadForm, Webhook
from services.orchestrator.servicers.a2a.outgoing import change_to_proto
from services.orchestrator.usecases.a2a.push_configs import PushPlan
from services.orchestrator.usecases.a2a.streams import TaskChange

_MAX_PAGE = 100


def push_plan_from_proto(config: pb.TaskPushNotificationConfig, path: str, form: PayloadForm) -> PushPlan:
    """Return what somebody asks for; `path` is where the config lies in the request."""
    return PushPlan(
        path=path,
        config_id=config.id,
        url=config.url,
        form=form,
        token=config.token,
        scheme=config.authentication.scheme,
        credentials=config.authentication.credentials,
    )


def push_config_to_proto(webhook: Webhook) -> pb.TaskPushNotificationConfig:
    """Return a config without what its receiver knows notifications by."""
    bound = webhook.bound
    return pb.TaskPushNotificationConfig(
        id=bound.config_id if bound else "", task_id=bound.task_id if bound else "", url=webhook.plan.url
    )


def push_page_size(size: int) -> int:
    """Return how many configs a page has; 0 asks for all. Raises InvalidArgument: it is negative, or too many."""
    if not 0 <= size <= _MAX_PAGE:
        raise InvalidArgument.field("page_size", f"must be 0 to {_MAX_PAGE}; 0 means all that a task has")
    return size


def change_body(row: TaskRow, change: TaskChange) -> bytes:
    """Return what is posted of a change: what a stream says of it."""
    return json_format.MessageToJson(change_to_proto(row, change), indent=None).encode()

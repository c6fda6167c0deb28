"""Requests of 0.3 as those of 1.0, and cards of 1.0 as those of 0.3."""

from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.types import a2a_pb2 as pb

from services.common.errors import InvalidArgument
from services.orchestrator.a2a_03 import message_from_03

_TASK_PREFIX = "tasks/"


def task_id_of(name: str, field: str = "name") -> str:
    """Return the id in the name of a task. Raises InvalidArgument: it is no such name, and lies in `field`."""
    task_id = name.removeprefix(_TASK_PREFIX)
    if not name.startswith(_TASK_PREFIX) or not task_id or "/" in task_id:
        raise InvalidArgument.field(field, "must be tasks/ and the id of a task")
    return task_id


def history_length(length: int) -> int | None:
    """Return how many messages are asked for; 0 says nothing and means all. Raises InvalidArgument: it is negative."""
    if length < 0:
        raise InvalidArgument.field("history_length", "must be 0 or more; 0 means all messages")
    return length or None


def send_request_from_03(request: old.SendMessageRequest, tenant: str) -> pb.SendMessageRequest:
    """Return a request to send a message to an agent."""
    made = pb.SendMessageRequest(
        tenant=tenant,
        message=message_from_03(request.request),
        configuration=pb.SendMessageConfiguration(
            accepted_output_modes=request.configuration.accepted_output_modes,
            return_immediately=not request.configuration.blocking,
        ),
        metadata=request.metadata if request.HasField("metadata") else None,
    )
    made.message.task_id = made.message.task_id.removeprefix(_TASK_PREFIX)
    if request.configuration.HasField("push_notification"):
        wanted = request.configuration.push_notification
        config = pb.TaskPushNotificationConfig(id=wanted.id, url=wanted.url, token=wanted.token)
        if wanted.HasField("authentication"):
            config.authentication.scheme = next(iter(wanted.authentication.schemes), "")
            config.authentication.credentials = wanted.authentication.credentials
        made.configuration.task_push_notification_config.CopyFrom(config)
    return made


def card_to_03(card: pb.AgentCard, tenant: pb.AgentExtension) -> old.AgentCard:
    """Return an agent card, with the extension that says which tenant it is of: interfaces of 0.3 have none."""
    made = old.AgentCard(
        protocol_version="0.3.0",
        name=card.name,
        description=card.description,
        url=card.supported_interfaces[0].url,
        preferred_transport="GRPC",
        version=card.version,
        capabilities=old.AgentCapabilities(
            streaming=card.capabilities.streaming,
            push_notifications=card.capabilities.push_notifications,
            extensions=[
                old.AgentExtension(
                    uri=tenant.uri, description=tenant.description, required=tenant.required, params=tenant.params
                )
            ],
        ),
        default_input_modes=card.default_input_modes,
        default_output_modes=card.default_output_modes,
        skills=[
            old.AgentSkill(
                id=skill.id,
                name=skill.name,
                description=skill.description,
                tags=skill.tags,
                examples=skill.examples,
            )
            for skill in card.skills
        ],
    )
    if card.HasField("provider"):
        made.provider.organization, made.provider.url = card.provider.organization, card.provider.url
    for name, scheme in card.security_schemes.items():
        http = scheme.http_auth_security_scheme
        made.security_schemes[name].http_auth_security_scheme.scheme = http.scheme
        made.security_schemes[name].http_auth_security_scheme.bearer_format = http.bearer_format
        made.security.add().schemes[name].SetInParent()
    return made

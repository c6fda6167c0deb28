"""Messages of 0.3 as those of 1.0, and back."""

from typing import cast

from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.types import a2a_pb2 as pb

from services.common.errors import InvalidArgument
from services.orchestrator.a2a_03 import part_from_03, part_to_03

_TASK_PREFIX = "tasks/"
_STATE_NAMES = {"TASK_STATE_CANCELED": "TASK_STATE_CANCELLED"}
_ENDS = frozenset(
    {
        pb.TASK_STATE_COMPLETED,
        pb.TASK_STATE_FAILED,
        pb.TASK_STATE_CANCELED,
        pb.TASK_STATE_REJECTED,
        pb.TASK_STATE_INPUT_REQUIRED,
        pb.TASK_STATE_AUTH_REQUIRED,
    }
)
"""States in which a stream of 0.3 closes."""


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
    message = request.request
    made = pb.SendMessageRequest(
        tenant=tenant,
        message=pb.Message(
            message_id=message.message_id,
            context_id=message.context_id,
            task_id=message.task_id.removeprefix(_TASK_PREFIX),
            role=pb.ROLE_USER if message.role == old.ROLE_USER else pb.ROLE_UNSPECIFIED,
            parts=map(part_from_03, message.content),
            metadata=message.metadata if message.HasField("metadata") else None,
            extensions=message.extensions,
        ),
        configuration=pb.SendMessageConfiguration(
            accepted_output_modes=request.configuration.accepted_output_modes,
            return_immediately=not request.configuration.blocking,
        ),
        metadata=request.metadata if request.HasField("metadata") else None,
    )
    if request.configuration.HasField("push_notification"):
        wanted = request.configuration.push_notification
        config = pb.TaskPushNotificationConfig(id=wanted.id, url=wanted.url, token=wanted.token)
        if wanted.HasField("authentication"):
            config.authentication.scheme = next(iter(wanted.authentication.schemes), "")
            config.authentication.credentials = wanted.authentication.credentials
        made.configuration.task_push_notification_config.CopyFrom(config)
    return made


def task_to_03(task: pb.Task) -> old.Task:
    """Return a task."""
    return old.Task(
        id=task.id,
        context_id=task.context_id,
        status=_status_to_03(task.status),
        artifacts=map(_artifact_to_03, task.artifacts),
        history=map(_message_to_03, task.history),
        metadata=task.metadata,
    )


def response_to_03(response: pb.StreamResponse) -> old.StreamResponse:
    """Return what a stream says."""
    match response.WhichOneof("payload"):
        case "task":
            return old.StreamResponse(task=task_to_03(response.task))
        case "status_update":
            update = response.status_update
            return old.StreamResponse(
                status_update=old.TaskStatusUpdateEvent(
                    task_id=update.task_id,
                    context_id=update.context_id,
                    status=_status_to_03(update.status),
                    final=update.status.state in _ENDS,
                    metadata=update.metadata,
                )
            )
        case _:
            artifact = response.artifact_update
            return old.StreamResponse(
                artifact_update=old.TaskArtifactUpdateEvent(
                    task_id=artifact.task_id,
                    context_id=artifact.context_id,
                    artifact=_artifact_to_03(artifact.artifact),
                    append=artifact.append,
                    last_chunk=artifact.last_chunk,
                    metadata=artifact.metadata,
                )
            )


def is_final(response: pb.StreamResponse) -> bool:
    """Whether a stream of 0.3 closes after a response."""
    status = response.task.status if response.HasField("task") else response.status_update.status
    return status.state in _ENDS


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


def _message_to_03(message: pb.Message) -> old.Message:
    return old.Message(
        message_id=message.message_id,
        context_id=message.context_id,
        task_id=message.task_id,
        role=old.ROLE_USER if message.role == pb.ROLE_USER else old.ROLE_AGENT,
        content=map(part_to_03, message.parts),
        metadata=message.metadata if message.HasField("metadata") else None,
        extensions=message.extensions,
    )


def _status_to_03(status: pb.TaskStatus) -> old.TaskStatus:
    name = pb.TaskState.Name(status.state)
    return old.TaskStatus(
        state=cast("old.TaskState", old.TaskState.Value(_STATE_NAMES.get(name, name))),
        update=_message_to_03(status.message) if status.HasField("message") else None,
        timestamp=status.timestamp,
    )


def _artifact_to_03(artifact: pb.Artifact) -> old.Artifact:
    return old.Artifact(artifact_id=artifact.artifact_id, name=artifact.name, parts=map(part_to_03, artifact.parts))

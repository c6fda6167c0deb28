"""What those who serve A2A 0.3 and those who call it share: its messages as those of 1.0, and back."""

from typing import cast

from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.types import a2a_pb2 as pb

TENANT_KEY = "x-a2a-tenant"
"""Metadata of a call that names the tenant, for which no message of 0.3 has a field."""
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
"""States in which a stream closes."""
_STATES = {number: pb.TaskState.Value(name.replace("CANCELLED", "CANCELED")) for name, number in old.TaskState.items()}
_OLD_STATES = {state: number for number, state in _STATES.items()}


def part_from_03(part: old.Part) -> pb.Part:
    """Return a part of a message or an artifact; one without content if it has none."""
    made = pb.Part(metadata=part.metadata if part.HasField("metadata") else None)
    match part.WhichOneof("part"):
        case "text":
            made.text = part.text
        case "file":
            made.filename, made.media_type = part.file.name, part.file.mime_type
            if part.file.WhichOneof("file") == "file_with_bytes":
                made.raw = part.file.file_with_bytes
            else:
                made.url = part.file.file_with_uri
        case "data":
            made.data.struct_value.CopyFrom(part.data.data)
    return made


def part_to_03(part: pb.Part) -> old.Part:
    """Return a part; data that is no object becomes the `value` of one, as 0.3 knows objects alone."""
    made = old.Part(metadata=part.metadata if part.HasField("metadata") else None)
    match part.WhichOneof("content"):
        case "data" if part.data.HasField("struct_value"):
            made.data.data.CopyFrom(part.data.struct_value)
        case "data":
            made.data.data.fields["value"].CopyFrom(part.data)
        case "raw":
            made.file.file_with_bytes = part.raw
        case "url":
            made.file.file_with_uri = part.url
        case _:
            made.text = part.text
    if made.HasField("file"):
        made.file.name, made.file.mime_type = part.filename, part.media_type
    return made


def message_from_03(message: old.Message) -> pb.Message:
    """Return a message; what is not of a user is of an agent."""
    return pb.Message(
        message_id=message.message_id,
        context_id=message.context_id,
        task_id=message.task_id,
        role=pb.ROLE_USER if message.role == old.ROLE_USER else pb.ROLE_AGENT,
        parts=map(part_from_03, message.content),
        metadata=message.metadata if message.HasField("metadata") else None,
        extensions=message.extensions,
    )


def message_to_03(message: pb.Message) -> old.Message:
    """Return a message; what is not of a user is of an agent."""
    return old.Message(
        message_id=message.message_id,
        context_id=message.context_id,
        task_id=message.task_id,
        role=old.ROLE_USER if message.role == pb.ROLE_USER else old.ROLE_AGENT,
        content=map(part_to_03, message.parts),
        metadata=message.metadata if message.HasField("metadata") else None,
        extensions=message.extensions,
    )


def task_from_03(task: old.Task) -> pb.Task:
    """Return a task."""
    return pb.Task(
        id=task.id,
        context_id=task.context_id,
        status=_status_from_03(task.status),
        artifacts=map(_artifact_from_03, task.artifacts),
        history=map(message_from_03, task.history),
        metadata=task.metadata if task.HasField("metadata") else None,
    )


def task_to_03(task: pb.Task) -> old.Task:
    """Return a task."""
    return old.Task(
        id=task.id,
        context_id=task.context_id,
        status=_status_to_03(task.status),
        artifacts=map(_artifact_to_03, task.artifacts),
        history=map(message_to_03, task.history),
        metadata=task.metadata if task.HasField("metadata") else None,
    )


def response_from_03(response: old.StreamResponse) -> pb.StreamResponse:
    """Return what a stream says; of an artifact only whose it is: the task has it in the end."""
    match response.WhichOneof("payload"):
        case "task":
            return pb.StreamResponse(task=task_from_03(response.task))
        case "status_update":
            update = response.status_update
            return pb.StreamResponse(
                status_update=pb.TaskStatusUpdateEvent(task_id=update.task_id, status=_status_from_03(update.status))
            )
        case "artifact_update":
            return pb.StreamResponse(
                artifact_update=pb.TaskArtifactUpdateEvent(task_id=response.artifact_update.task_id)
            )
        case _:
            return pb.StreamResponse()


def is_final(response: pb.StreamResponse) -> bool:
    """Whether a stream closes after a response."""
    status = response.task.status if response.HasField("task") else response.status_update.status
    return status.state in _ENDS


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
                    final=is_final(response),
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


def _status_from_03(status: old.TaskStatus) -> pb.TaskStatus:
    return pb.TaskStatus(
        # One that is none stays a number that is none.
        state=cast("pb.TaskState", _STATES.get(status.state, status.state)),
        message=message_from_03(status.update) if status.HasField("update") else None,
        timestamp=status.timestamp if status.HasField("timestamp") else None,
    )


def _status_to_03(status: pb.TaskStatus) -> old.TaskStatus:
    return old.TaskStatus(
        state=cast("old.TaskState", _OLD_STATES[status.state]),
        update=message_to_03(status.message) if status.HasField("message") else None,
        timestamp=status.timestamp if status.HasField("timestamp") else None,
    )


def _artifact_from_03(artifact: old.Artifact) -> pb.Artifact:
    return pb.Artifact(artifact_id=artifact.artifact_id, name=artifact.name, parts=map(part_from_03, artifact.parts))


def _artifact_to_03(artifact: pb.Artifact) -> old.Artifact:
    return old.Artifact(artifact_id=artifact.artifact_id, name=artifact.name, parts=map(part_to_03, artifact.parts))

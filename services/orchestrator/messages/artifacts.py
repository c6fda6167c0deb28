"""Files of executions: domain to messages."""

from coxswain.orchestrator.v1 import artifact_pb2, execution_pb2
from services.orchestrator.domain.artifact import Artifact


def artifact_to_proto(artifact: Artifact) -> artifact_pb2.Artifact:
    """Return a file as callers see it."""
    message = artifact_pb2.Artifact(
        execution_id=artifact.execution_id,
        name=artifact.name,
        task_name=artifact.task_name,
        call_id=artifact.call_id,
        media_type=artifact.media_type,
        size_bytes=artifact.size,
        sha256=artifact.sha256,
        revision=artifact.revision,
    )
    message.store_time.FromDatetime(artifact.created_at)
    return message


def stored_to_proto(artifact: Artifact) -> execution_pb2.ArtifactStored:
    """Return the event of a file that was stored."""
    return execution_pb2.ArtifactStored(
        name=artifact.name,
        media_type=artifact.media_type,
        size_bytes=artifact.size,
        sha256=artifact.sha256,
        revision=artifact.revision,
        call_id=artifact.call_id,
    )

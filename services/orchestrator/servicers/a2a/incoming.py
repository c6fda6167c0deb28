"""Messages that others send."""

import base64
from collections.abc import Iterator

from a2a.types import a2a_pb2 as pb

from services.common.errors import FieldViolation, InvalidArgument
from services.common.grpc.json_values import from_value
from services.orchestrator.domain.webhook import PayloadForm
from services.orchestrator.servicers.a2a.push import push_plan_from_proto
from services.orchestrator.usecases.a2a.inputs import IncomingMessage, MessagePart, PartKind

_MAX_PARTS = 64
_MAX_MESSAGE_BYTES = 1024 * 1024
_MAX_METADATA_BYTES = 64 * 1024
_MAX_ID = 256
_MAX_REFERENCES = 32
_PUSH = "configuration.task_push_notification_config"


def incoming_from_proto(request: pb.SendMessageRequest, form: PayloadForm) -> IncomingMessage:
    """Return the message of a request; `form` is that of the push notifications it asks for.

    Raises InvalidArgument: something is missing in it, or too much.
    """
    message = request.message
    if violations := list(_violations(request)):
        raise InvalidArgument.fields(violations)
    parts = [_part(f"message.parts[{index}]", part) for index, part in enumerate(message.parts)]

    def stored(task_id: str, context_id: str) -> bytes:
        copy = pb.Message()
        copy.CopyFrom(message)
        copy.task_id, copy.context_id = task_id, context_id
        return copy.SerializeToString()

    return IncomingMessage(
        message_id=message.message_id,
        context_id=message.context_id,
        task_id=message.task_id,
        parts=parts,
        reference_task_ids=list(message.reference_task_ids),
        accepted_modes=list(request.configuration.accepted_output_modes),
        stored=stored,
        push=(
            push_plan_from_proto(request.configuration.task_push_notification_config, _PUSH, form)
            if request.configuration.HasField("task_push_notification_config")
            else None
        ),
    )


def history_length(
    request: pb.GetTaskRequest | pb.ListTasksRequest | pb.SendMessageConfiguration, path: str
) -> int | None:
    """Return how many of the newest messages are asked for; None means all. Raises InvalidArgument: it is negative."""
    if not request.HasField("history_length"):
        return None
    if request.history_length < 0:
        raise InvalidArgument.field(path, "must be 0 or more; leave it out for all messages")
    return request.history_length


def _violations(request: pb.SendMessageRequest) -> Iterator[FieldViolation]:
    message = request.message
    if not message.message_id:
        yield FieldViolation("message.message_id", "is missing; send an id of your own, such as a UUID")
    for field in ("message_id", "context_id", "task_id"):
        if len(getattr(message, field)) > _MAX_ID:
            yield FieldViolation(f"message.{field}", f"must have at most {_MAX_ID} characters")
    if message.role != pb.ROLE_USER:
        yield FieldViolation("message.role", "must be ROLE_USER")
    if not message.parts:
        yield FieldViolation("message.parts", "is empty; send one part at least")
    if len(message.parts) > _MAX_PARTS:
        yield FieldViolation("message.parts", f"has {len(message.parts)} parts, and may have {_MAX_PARTS}")
    for index, part in enumerate(message.parts[:_MAX_PARTS]):
        if part.WhichOneof("content") is None:
            yield FieldViolation(f"message.parts[{index}]", "is empty; set one of text, raw, url and data")
    if len(message.reference_task_ids) > _MAX_REFERENCES:
        yield FieldViolation("message.reference_task_ids", f"may name {_MAX_REFERENCES} tasks")
    if (size := message.ByteSize()) > _MAX_MESSAGE_BYTES:
        yield FieldViolation("message", f"has {size} bytes, and may have {_MAX_MESSAGE_BYTES}")
    for path, size in (("metadata", request.metadata.ByteSize()), ("message.metadata", message.metadata.ByteSize())):
        if size > _MAX_METADATA_BYTES:
            yield FieldViolation(path, f"has {size} bytes, and may have {_MAX_METADATA_BYTES}")


def _part(path: str, part: pb.Part) -> MessagePart:
    match part.WhichOneof("content"):
        case "text":
            return MessagePart(path, PartKind.TEXT, part.text, part.media_type)
        case "data":
            return MessagePart(path, PartKind.DATA, from_value(f"{path}.data", part.data, exact=True), part.media_type)
        case "raw":
            content = {"bytes": base64.b64encode(part.raw).decode()}
        case _:
            content = {"url": part.url}
    described = {"filename": part.filename, "media_type": part.media_type, **content}
    return MessagePart(path, PartKind.FILE, described, part.media_type)

"""The rules that the protos state of messages."""

import protovalidate
from google.protobuf.message import Message

from services.common.errors import FieldViolation, InvalidArgument


def validate(message: Message, path: str = "") -> None:
    """Hold a message to its rules; `path` is where it stands in the request, empty for the request itself.

    Raises:
        InvalidArgument: it breaks some; each violation names its field from the request on.
    """
    violations = protovalidate.collect_violations(message)
    if violations:
        faults = [FieldViolation(_path(path, v.proto.field), v.proto.message or v.proto.rule_id) for v in violations]
        raise InvalidArgument.fields(faults)


def _path(path: str, field: protovalidate.FieldPathPb | None) -> str:
    for element in field.elements if field is not None else ():
        path += ("." if path else "") + element.field_name
        subscript = element.subscript
        if subscript is not None:
            path += f'["{subscript.value}"]' if isinstance(subscript.value, str) else f"[{subscript.value}]"
    return path or "request"

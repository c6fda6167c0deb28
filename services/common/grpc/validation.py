"""The rules that the protos state of messages."""

import re

import protovalidate
from google.protobuf.message import Message

from services.common.errors import FieldViolation, InvalidArgument
from services.common.grpc.rule_texts import rule_text

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")


def validate(message: Message, path: str = "") -> None:
    """Check a message against its rules; `path` is its path in the request, empty for the request itself.

    Raises:
        InvalidArgument: it breaks some; each violation names its field from the request on.
    """
    violations = rule_violations(message, path)
    if violations:
        raise InvalidArgument.fields(violations)


def rule_violations(message: Message, path: str = "") -> list[FieldViolation]:
    """Return the rules that a message breaks; see `validate`."""
    return [
        FieldViolation(_path(path, violation.proto.field), rule_text(message.DESCRIPTOR, violation))
        for violation in protovalidate.collect_violations(message)
    ]


def _path(path: str, field: protovalidate.FieldPathPb | None) -> str:
    for element in field.elements if field is not None else ():
        path += ("." if path else "") + element.field_name
        subscript = element.subscript
        if subscript is not None:
            key = subscript.value
            if isinstance(key, str):
                path += f".{key}" if _PLAIN_KEY.fullmatch(key) else f'["{key}"]'
            else:
                path += f"[{key}]"
    return path or "request"

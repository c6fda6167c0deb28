"""The rules that the protos state of messages."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.common.errors import FieldViolation, InvalidArgument
from services.common.grpc.rule_texts import rule_text

# More do not fit into an answer, and each takes time to put into words.
_MOST_VIOLATIONS = 50
# The engine of rules takes 9 microseconds for each message within a message, and nobody else is served meanwhile.
_MOST_MESSAGES = 30_000
# Fewer bytes cannot hold as many.
_CROWDED_BYTES = 2 * _MOST_MESSAGES
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")


def validate(message: Message, path: str = "") -> None:
    """Check a message against its rules; `path` is its path in the request, empty for the request itself.

    Raises:
        InvalidArgument: it breaks some; each violation names its field from the request on.
    """
    violations = rule_violations(message, path)
    if violations:
        raise InvalidArgument.fields(violations)


def refuse_crowds(message: Message, size: int) -> None:
    """Refuse a request of `size` bytes with more messages within it than can be checked in a moment.

    JSON does not count: the fields that hold it have no rules to check.

    Raises:
        InvalidArgument: the violation names the longest list of those that were counted.
    """
    if size < _CROWDED_BYTES:
        return
    found, longest, most = 0, "", 0
    pending = [("", message)]
    while pending:
        path, holder = pending.pop()
        for field, value in holder.ListFields():
            if field.type != FieldDescriptor.TYPE_MESSAGE or _holds_json(field):
                continue
            at = f"{path}.{field.name}" if path else field.name
            count = 1 if isinstance(value, Message) else len(value)
            found += count
            if count > most:
                longest, most = at, count
            if found > _MOST_MESSAGES:
                raise InvalidArgument.field(
                    longest,
                    f"is the longest list of a request with more than {_MOST_MESSAGES:,} messages within messages;"
                    " send less at once",
                )
            pending.extend([(at, value)] if isinstance(value, Message) else _messages_in(value, at))


def _messages_in(items: Any, path: str) -> Iterator[tuple[str, Message]]:
    named = items.items() if isinstance(items, Mapping) else enumerate(items)
    return ((f"{path}[{name}]", item) for name, item in named if isinstance(item, Message))


def _holds_json(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.file.name == "google/protobuf/struct.proto"


def rule_violations(message: Message, path: str = "") -> list[FieldViolation]:
    """Return the rules that a message breaks, the first ones of many; see `validate`."""
    return _field_violations(message, protovalidate.collect_violations(message), path)


def rule_violations_cutting(message: Message, path: str = "") -> list[FieldViolation]:
    """Return what `rule_violations` does, and cut lists, maps and texts of the message that are too long.

    For those who look for other faults all the same: what is looked at may be as much as the rules allow.
    """
    violations = protovalidate.collect_violations(message)
    found = _field_violations(message, violations, path)
    # Values are looked up when they are asked for, also in what is cut off by then: all of them before anything is cut.
    of_texts = [v for v in violations if v.proto.rule_id == "string.max_len" and not v.proto.for_key]
    texts = [(v.proto.field, v.rule_value) for v in of_texts]
    lists = [(v.field_value, v.rule_value) for v in violations if v.proto.rule_id == "repeated.max_items"]
    maps = [(v.field_value, v.rule_value) for v in violations if v.proto.rule_id == "map.max_pairs"]
    for field, length in texts:
        _cut_text(message, field, length)
    for items, most in cast("Any", lists):
        del items[most:]
    for items, most in cast("Any", maps):
        for key in list(items)[most:]:
            del items[key]
    return found


def _cut_text(message: Message, field: protovalidate.FieldPathPb | None, length: int) -> None:
    """Cut the text at a path of a message."""
    holder: Any = message
    steps: list[Any] = []
    for element in field.elements if field is not None else ():
        steps.append(element.field_name)
        if element.subscript is not None:
            steps.append(element.subscript.value)
    *path, last = steps
    for step in path:
        holder = getattr(holder, step) if isinstance(holder, Message) else holder[step]
    if isinstance(holder, Message):
        setattr(holder, last, getattr(holder, last)[:length])
    else:
        holder[last] = holder[last][:length]


def _field_violations(
    message: Message, violations: Sequence[protovalidate.Violation], path: str
) -> list[FieldViolation]:
    return [
        FieldViolation(_path(path, violation.proto.field), rule_text(message.DESCRIPTOR, violation))
        for violation in violations[:_MOST_VIOLATIONS]
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

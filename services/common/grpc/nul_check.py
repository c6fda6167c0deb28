"""No request may hold U+0000, which PostgreSQL cannot store."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from services.common.errors import FieldViolation, InvalidArgument

# The first ones of many: an answer holds no more.
_MOST_PATHS = 50
_DESCRIPTION = "contains the control character U+0000, which cannot be stored; remove it"
# These stand for JSON: what is in them has the path it has in JSON.
_TRANSPARENT = frozenset(
    {
        "google.protobuf.Struct.fields",
        "google.protobuf.Value.string_value",
        "google.protobuf.Value.struct_value",
        "google.protobuf.Value.list_value",
        "google.protobuf.ListValue.values",
    }
)


def refuse_nul(message: Message, data: bytes) -> None:
    """Refuse a request with U+0000 in any of its strings, keys of maps and JSON included.

    `data` are its bytes: requests that have no such byte at all are not walked through.

    Raises:
        InvalidArgument: each violation names a field that holds it.
    """
    if b"\0" in data and (paths := list(itertools.islice(nul_paths(message), _MOST_PATHS))):
        raise InvalidArgument.fields([FieldViolation(path, _DESCRIPTION) for path in paths])


def nul_paths(message: Message, path: str = "") -> Iterator[str]:
    """Yield the path of every string of a message that holds U+0000; a key's is that of its map."""
    relevant = _relevant_fields(message.DESCRIPTOR)
    for field, value in message.ListFields():
        if field.number not in relevant:
            continue
        if field.full_name in _TRANSPARENT:
            at = path
        else:
            at = f"{path}.{field.name}" if path else field.name
        if isinstance(value, str | Message):
            yield from _paths_in(value, at)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if "\0" in str(key):
                    yield at
                else:
                    yield from _paths_in(item, f"{at}.{key}")
        else:
            for index, item in enumerate(value):
                yield from _paths_in(item, f"{at}[{index}]")


def _paths_in(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Message):
        yield from nul_paths(value, path)
    elif isinstance(value, str) and "\0" in value:
        yield path


@functools.cache
def _relevant_fields(message: Descriptor) -> frozenset[int]:
    """Return the numbers of the fields that can hold a string: vectors are not looked through."""
    return frozenset(
        field.number
        for field in message.fields
        if field.type == FieldDescriptor.TYPE_STRING
        or (field.type == FieldDescriptor.TYPE_MESSAGE and _has_texts(field.message_type))
    )


def _has_texts(message: Descriptor | None) -> bool:
    kinds = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE}
    return message is not None and any(field.type in kinds for field in message.fields)

"""Texts in messages, made fit to be stored."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.common.storable import storable


def replace_nulls(message: Message) -> None:
    """Put U+FFFD in place of U+0000 in every string of a message, keys of maps included."""
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            _replace_in_map(value, kind.fields_by_name["value"])
        elif kind is not None:
            for item in value if field.is_repeated else (value,):
                replace_nulls(item)
        elif field.type == FieldDescriptor.TYPE_STRING and field.is_repeated:
            value[:] = map(storable, value)
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, storable(value))


def _replace_in_map(entries: Any, of: FieldDescriptor) -> None:
    for key in list(entries):
        item = entries[key]
        if of.message_type is not None:
            replace_nulls(item)
        elif of.type == FieldDescriptor.TYPE_STRING:
            item = storable(item)
        name = storable(key) if isinstance(key, str) else key
        if of.message_type is None:
            del entries[key]
            entries[name] = item
        elif name != key:
            entries[name].CopyFrom(item)
            del entries[key]

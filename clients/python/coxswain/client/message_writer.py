"""Writes messages as documents that MessageReader takes.

Enum values are in short, durations have units, and named parts stand by their names.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

# Beside these, what a terminal would obey is escaped by YAML itself.
_DIRECTIONS = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def document_of(message: Message, named: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The fields that are set; parts of a kind in ``named`` as a mapping by their names, as the reader takes them."""
    return {field.name: _field(message, field, named) for field, _ in message.ListFields()}


def yaml_of(document: Mapping[str, Any]) -> str:
    """The document as YAML, long texts in blocks. Nothing in it commands a terminal."""
    text = _dump(document, allow_unicode=True)
    return _dump(document, allow_unicode=False) if _DIRECTIONS.search(text) else text


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _write_text)


def _dump(document: Mapping[str, Any], *, allow_unicode: bool) -> str:
    text: str = yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode, width=100)
    return text


def _field(message: Message, field: FieldDescriptor, named: frozenset[str]) -> Any:
    value: Any = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"]
        return {key: _value(inner, value[key], named) for key in sorted(value)}
    if not field.is_repeated:
        return _value(field, value, named)
    parts = [_value(field, item, named) for item in value]
    names = [part.get("name") for part in parts] if kind is not None and kind.full_name in named else []
    if names and all(names) and len(set(names)) == len(names):
        return {part.pop("name"): part for part in parts}
    return parts


def _value(field: FieldDescriptor, value: Any, named: frozenset[str]) -> Any:
    match value:
        case Struct() | Value():
            return MessageToDict(value)
        case Duration():
            return f"{value.ToTimedelta().total_seconds():.9g}s"
        case Message():
            return document_of(value, named)
    if field.enum_type is not None:
        prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
        return field.enum_type.values_by_number[value].name.removeprefix(prefix).lower()
    return round(value, 7) if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else value

"""Sources of tools as people write them in YAML: what each field means, and every fault at its line."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from services.orchestrator.suggestions import suggestion

Fault = Callable[[str, str], Any]
"""Takes a path in the document and what is wrong there; what it returns stands for the value."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d{1,10}(?:\.\d{1,9})?(?:ms|[smhd]))+")
_WHOLE = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
_MOST_SECONDS = 315_576_000_000


def lines_of(root: yaml.Node | None, path: str = "") -> dict[str, int]:
    """Return the line of each part of a document, from 1. Example of a path: `sources[0].mcp.url`."""
    if root is None:
        return {}
    found = {path: root.start_mark.line + 1}
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            name = getattr(key, "value", "")
            place = f"{path}.{name}" if path else str(name)
            found |= lines_of(value, place)
            found[place] = key.start_mark.line + 1
    elif isinstance(root, yaml.SequenceNode):
        for index, value in enumerate(root.value):
            found |= lines_of(value, f"{path}[{index}]")
    return found


def fill(message: Message, document: Mapping[str, Any], path: str, fault: Fault) -> bool:
    """Set the fields of a message as a document says, and return whether it has none but what a message can hold.

    Enum values may be in short (`block`), durations with units (`90s`, `1h30m`) or in seconds. Each fault is told.
    """
    faults: list[str] = []

    def note_fault(place: str, text: str) -> None:
        faults.append(place)
        fault(place, text)

    as_json = _message_as_json(message.DESCRIPTOR, document, path, note_fault)
    if faults:
        return False
    try:
        json_format.ParseDict(as_json, message)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        fault(path, f"cannot be read: {error}")
        return False
    return True


def _message_as_json(message: Any, value: Any, path: str, fault: Fault) -> Any:
    if message.full_name.startswith("google.protobuf."):
        return value
    if not isinstance(value, Mapping):
        fields = ", ".join(field.name for field in message.fields[:3])
        return fault(path, f"has to be a mapping with fields such as {fields}, and is {_kind(value)}")
    known = {name: field for field in message.fields for name in (field.name, field.json_name)}
    given: dict[str, str] = {}
    found: dict[str, Any] = {}
    for key, item in value.items():
        place, field = f"{path}.{key}", known.get(str(key))
        if field is None:
            fault(place, f"there is no such field; {suggestion(str(key), [one.name for one in message.fields])}")
            continue
        choice = field.containing_oneof.name if field.containing_oneof else ""
        if choice and not choice.startswith("_") and given.setdefault(choice, field.name) != field.name:
            fault(place, f"give either {given[choice]} or {field.name}, not both")
        elif item is not None:
            found[field.name] = _field_as_json(field, item, place, fault)
    return found


def _field_as_json(field: FieldDescriptor, value: Any, path: str, fault: Fault) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if not isinstance(value, Mapping):
            return fault(path, f"has to be a mapping, and is {_kind(value)}")
        of = field.message_type.fields_by_name["value"]
        return {str(key): _one_as_json(of, item, f"{path}.{key}", fault) for key, item in value.items()}
    if not field.is_repeated:
        return _one_as_json(field, value, path, fault)
    items = value if isinstance(value, list) else [value]
    return [_one_as_json(field, item, f"{path}[{index}]", fault) for index, item in enumerate(items)]


def _one_as_json(field: FieldDescriptor, value: Any, path: str, fault: Fault) -> Any:
    if field.message_type is Duration.DESCRIPTOR:
        seconds = _seconds(value)
        if seconds is None:
            return fault(path, f"has to be a duration such as 90, 30s or 1h30m, and is {_kind(value)}")
        return f"{seconds:f}s"
    if field.message_type is not None:
        return _message_as_json(field.message_type, value, path, fault)
    if field.enum_type is not None:
        return _enum(field.enum_type, value, path, fault)
    wanted, fits = _scalar(field, value)
    return value if fits else fault(path, f"has to be {wanted}, and is {_kind(value)}")


def _enum(kind: EnumDescriptor, value: Any, path: str, fault: Fault) -> Any:
    prefix = kind.values[0].name.removesuffix("UNSPECIFIED")
    short = {one.name.removeprefix(prefix).lower(): one.name for one in kind.values[1:]}
    # YAML reads some words, such as no and on, as true and false.
    name = short.get(str(value).removeprefix(prefix).lower())
    return name or fault(path, f"has to be one of {', '.join(short)}, and is {value!r}")


def _scalar(field: FieldDescriptor, value: Any) -> tuple[str, bool]:
    """Return what a field has to be, and whether a value is."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "text (in quotes)", isinstance(value, str)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true or false", isinstance(value, bool)
    if field.cpp_type in _WHOLE:
        return "a whole number", number and int(value) == value and abs(value) < 2**31
    return "a number", number


def _seconds(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < _MOST_SECONDS else None
    if not isinstance(value, str) or _DURATION.fullmatch(value) is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", value)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return seconds if seconds < _MOST_SECONDS else None


def _kind(value: Any) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case Mapping():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return f"a {type(value).__name__}"

"""Messages from YAML and JSON documents: enum values in short, durations with units, faults with their lines."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from coxswain.client.documents import Node, Problem
from coxswain.client.near import did_you_mean, near_names
from coxswain.client.values import to_value

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
_LAST_PART = re.compile(r"(\.[^.\[\]]*|\[[^\[\]]*\]|^[^.\[\]]+)$")
_LARGEST_FLOAT = 10**38


def violations(message: Message) -> Iterator[tuple[str, str]]:
    # To import it takes as long as to import all else that a command needs.
    import protovalidate

    for violation in protovalidate.collect_violations(message):
        path = ""
        for element in violation.proto.field.elements if violation.proto.field else ():
            path += f".{element.field_name}" if path else element.field_name
            if element.subscript is not None:
                path += f"[{element.subscript.value}]"
        empty = violation.proto.rule_id in {"string.min_len", "repeated.min_items"} and not violation.field_value
        yield path, "must not be empty" if empty else violation.proto.message


def nearest(path: str, known: Collection[str]) -> str:
    """The part of a field path that is known, the longest one; empty if none is."""
    while path and path not in known:
        path = _LAST_PART.sub("", path)
    return path


class MessageReader:
    """Fills messages from documents, and keeps the line of each field and everything that is wrong.

    A subclass says which short forms its documents have.
    """

    named: frozenset[str] = frozenset()
    """Full names of messages whose lists may be written as a mapping by name."""
    elsewhere: Mapping[str, str] = {}
    """What to say of a field that people write at the top of a document, and that does not belong there."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.lines: dict[str, int] = {}
        self.files: dict[str, str] = {}

    def spelled_out(self, message: Message, node: Node) -> Node:  # noqa: ARG002
        """The mapping that a short form abbreviates."""
        return node

    def _unknown(self, key: str, known: list[str], *, at_top: bool) -> str:
        if at_top and key in self.elsewhere:
            return self.elsewhere[key]
        hint = did_you_mean(near_names(key, known, 1)) or f"expected one of {', '.join(known)}"
        return f"unknown field; {hint}"

    def report(self, path: str, description: str, node: Node) -> None:
        self.problems.append(Problem(path, description, node.line, node.file))

    def _place(self, path: str, node: Node) -> None:
        self.lines[path] = node.line
        if node.file:
            self.files[path] = node.file

    def fill(self, message: Message, node: Node, path: str) -> None:
        """Set the fields of a message from a mapping."""
        node = self.spelled_out(message, node)
        if not isinstance(node.value, dict):
            return self.report(path, f"expected a mapping, not {node.kind}", node)
        fields = {field.name: field for field in message.DESCRIPTOR.fields}
        spellings = {field.json_name: field.name for field in message.DESCRIPTOR.fields}
        for key, item in node.value.items():
            field = fields.get(spellings.get(key, key))
            where = f"{path}.{key}" if path else key
            if field is None:
                self.report(where, self._unknown(key, list(fields), at_top=not path), item)
                continue
            self._place(f"{path}.{field.name}" if path else field.name, item)
            if item.value is None:
                continue
            other = message.WhichOneof(field.containing_oneof.name) if field.containing_oneof else None
            if other not in {None, field.name}:
                self.report(where, f"give either {other} or {field.name}, not both", item)
                continue
            self._set(message, field, item, f"{path}.{field.name}" if path else field.name)
        return None

    def _set(self, message: Message, field: Any, node: Node, path: str) -> None:
        entry = field.message_type
        if field.is_repeated and entry is not None and entry.GetOptions().map_entry:
            self._set_map(getattr(message, field.name), entry.fields_by_name["value"], node, path)
        elif field.is_repeated:
            self._extend(message, field, node, path)
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            part: Any = getattr(message, field.name)
            part.SetInParent()
            self._set_message(part, node, path)
        else:
            value = self._scalar(field, node, path)
            if value is not None:
                setattr(message, field.name, value)

    def _set_message(self, part: Message, node: Node, path: str) -> None:
        if isinstance(part, Struct):
            self._set_struct(part, node, path)
        elif isinstance(part, Value):
            self._set_value(part, node, path)
        elif isinstance(part, Duration):
            seconds = _seconds(node)
            if seconds is None:
                return self.report(
                    path, f"expected a duration such as 90, 30s, 5m or 1h30m, not {node.text or node.kind}", node
                )
            part.FromMilliseconds(round(seconds * 1000))
        else:
            self.fill(part, node, path)
        return None

    def _set_map(self, values: Any, field: FieldDescriptor, node: Node, path: str) -> None:
        """Set a map whose values are scalars."""
        if not isinstance(node.value, dict):
            return self.report(path, f"expected a mapping, not {node.kind}", node)
        for key, item in node.value.items():
            value = self._scalar(field, item, f"{path}.{key}")
            if value is not None:
                values[key] = value
        return None

    def _set_value(self, part: Value, node: Node, path: str) -> None:
        try:
            part.CopyFrom(to_value(node.plain(), path))
        except ValueError as error:
            self.report(path, str(error), node)

    def _extend(self, message: Message, field: FieldDescriptor, node: Node, path: str) -> None:
        values: Any = getattr(message, field.name)
        for index, item in enumerate(self._items(field, node, path)):
            element = f"{path}[{index}]"
            self._place(element, item)
            if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
                self._set_message(values.add(), item, element)
            else:
                value = self._scalar(field, item, element)
                if value is not None:
                    values.append(value)

    def _items(self, field: FieldDescriptor, node: Node, path: str) -> list[Node]:
        """The elements of a list; named parts may be a mapping by name, a single value needs no brackets."""
        kind = field.message_type.full_name if field.message_type else ""
        if isinstance(node.value, list):
            return node.value
        if kind in self.named and isinstance(node.value, dict):
            items = []
            for name, item in node.value.items():
                if not isinstance(item.value, dict):
                    self.report(f"{path}.{name}", f"expected a mapping, not {item.kind}", item)
                    continue
                given = item.value.get("name")
                if given is not None and given.value != name:
                    self.report(f"{path}.{name}.name", f"differs from the key of the agent or task, {name!r}", given)
                key = Node(name, item.line, name, item.file)
                items.append(Node({"name": key, **item.value}, item.line, None, item.file))
            return items
        if kind in self.named:
            self.report(path, f"expected a list, or a mapping by name, not {node.kind}", node)
            return []
        return [node]

    def _scalar(self, field: FieldDescriptor, node: Node, path: str) -> str | int | float | bool | None:
        value = node.value
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            if isinstance(value, str):
                return value
            if node.text is not None and not isinstance(value, dict | list) and value is not None:
                return node.text
        elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            if isinstance(value, bool):
                return value
        elif field.enum_type is not None:
            return self._enum(field.enum_type, node, path)
        elif field.cpp_type in _INTEGERS:
            if isinstance(value, int) and not isinstance(value, bool):
                if abs(value) < 2**31:
                    return value
                self.report(path, f"{value} is too large", node)
                return None
        elif field.cpp_type in _FLOATS and isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) < _LARGEST_FLOAT:
                return float(value)
            self.report(path, "the number is too large", node)
            return None
        self.report(path, f"expected {_expected(field)}, not {node.kind}", node)
        return None

    def _enum(self, kind: EnumDescriptor, node: Node, path: str) -> int | None:
        # PROCESS_UNSPECIFIED names the prefix of its siblings.
        prefix = kind.values[0].name.removesuffix("UNSPECIFIED")
        choices = {value.name.removeprefix(prefix).lower(): value.number for value in kind.values[1:]}
        given = str(node.value).removeprefix(prefix).lower()
        if given in choices:
            return choices[given]
        self.report(path, f"expected one of {', '.join(choices)}, not {node.text or node.value!r}", node)
        return None

    def _set_struct(self, part: Struct, node: Node, path: str) -> None:
        if not isinstance(node.value, dict):
            return self.report(path, f"expected a mapping, not {node.kind}", node)
        try:
            part.CopyFrom(to_value(node.plain(), path).struct_value)
        except ValueError as error:
            self.report(path, str(error), node)
        return None


def _expected(field: FieldDescriptor) -> str:
    if field.cpp_type in _INTEGERS:
        return "a whole number"
    if field.cpp_type in _FLOATS:
        return "a number"
    return "true or false" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "text"


def _seconds(node: Node) -> float | None:
    """Seconds of a number, or of text such as 1h30m."""
    if isinstance(node.value, bool):
        return None
    if isinstance(node.value, int | float):
        return float(node.value) if abs(node.value) < 1e10 else None
    if not isinstance(node.value, str) or not re.fullmatch(r"(\d{1,10}(\.\d{1,9})?(ms|s|m|h|d))+", node.value):
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", node.value)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)

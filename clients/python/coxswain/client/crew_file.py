"""Crew files: one YAML or JSON document in the shape of CrewSpec, with short forms.

name: brief
agents:
  reader:                  # a mapping by name, or a list with `name:` in each
    role: Reader
    goal: Find what the text says
tasks:
  extract:
    description: Pull the key statements out of {text}
    expected_output: Five statements
    agent: reader
    tools: [word_count]    # a name alone, or {name:, config:}
    context: []            # a list of task names
process: sequential        # enum values in short
memory: true
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import protovalidate
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from coxswain.client.documents import DocumentError, Node, Problem, read_document
from coxswain.client.values import to_value
from coxswain.orchestrator.v1.crew_pb2 import (
    AgentSpec,
    CrewSpec,
    KnowledgeSpec,
    MemorySpec,
    TaskContext,
    TaskSpec,
    ToolSpec,
)

_NAMED = {message.DESCRIPTOR.full_name for message in (AgentSpec, TaskSpec, KnowledgeSpec)}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
_LARGEST_FLOAT = 10**38
_NOT_PART_OF_A_CREW = {
    "inputs": "inputs belong to an execution: give them when you run the crew",
    "apiVersion": "a crew file is the plain document: leave apiVersion, kind and metadata out",
    "kind": "a crew file is the plain document: leave apiVersion, kind and metadata out",
    "spec": "a crew file is the plain document: move what is under spec to the top level",
}


@dataclass(frozen=True, slots=True)
class CrewDocument:
    """A crew and the lines of its parts in the file."""

    spec: CrewSpec
    lines: dict[str, int]
    """Line of each field path. Example: ``{"tasks[1].agent": 14}``."""
    files: dict[str, str] = field(default_factory=dict)
    """File of each field path, where the crew was read from several; empty otherwise."""

    def line_of(self, field: str) -> int:
        """The line of a field path, or of the nearest part around it; with or without ``spec.`` before. 0: unknown."""
        return self.lines.get(self._nearest(field), 0)

    def problem(self, field: str, description: str) -> Problem:
        """A problem of a field path, with its place in the files."""
        return Problem(field, description, self.line_of(field), self.files.get(self._nearest(field), ""))

    def _nearest(self, field: str) -> str:
        path = field.removeprefix("spec.")
        while path and path not in self.lines:
            path = re.sub(r"(\.[^.\[\]]*|\[[^\[\]]*\]|^[^.\[\]]+)$", "", path)
        return path


def load_crew(path: Path | str) -> CrewSpec:
    """The crew of a YAML or JSON file.

    Raises OSError when it cannot be read and DocumentError with every problem, each with its line and field.
    """
    return read_crew(path).spec


def read_crew(path: Path | str) -> CrewDocument:
    """As ``load_crew``, with the lines."""
    return crew_from(read_document(path), path)


def crew_from(root: Node, path: Path | str) -> CrewDocument:
    """The crew of a document that was read already. Raises DocumentError as ``load_crew``."""
    spec = CrewSpec()
    reader = _Reader()
    if isinstance(root.value, dict):
        reader.fill(spec, root, "")
    else:
        reader.report("", f"a crew is a mapping with name, agents and tasks, not {root.kind}", root)
    document = CrewDocument(spec, reader.lines, reader.files)
    problems = reader.problems or [document.problem(path, description) for path, description in _violations(spec)]
    if problems:
        raise DocumentError(path, problems)
    return document


def _violations(message: Message) -> Iterator[tuple[str, str]]:
    for violation in protovalidate.collect_violations(message):
        path = ""
        for element in violation.proto.field.elements if violation.proto.field else ():
            path += f".{element.field_name}" if path else element.field_name
            if element.subscript is not None:
                path += f"[{element.subscript.value}]"
        empty = violation.proto.rule_id in {"string.min_len", "repeated.min_items"} and not violation.field_value
        yield path, "must not be empty" if empty else violation.proto.message


class _Reader:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.lines: dict[str, int] = {}
        self.files: dict[str, str] = {}

    def report(self, path: str, description: str, node: Node) -> None:
        self.problems.append(Problem(path, description, node.line, node.file))

    def _place(self, path: str, node: Node) -> None:
        self.lines[path] = node.line
        if node.file:
            self.files[path] = node.file

    def fill(self, message: Message, node: Node, path: str) -> None:
        """Set the fields of a message from a mapping."""
        node = _spelled_out(message, node)
        if not isinstance(node.value, dict):
            return self.report(path, f"expected a mapping, not {node.kind}", node)
        fields = {field.name: field for field in message.DESCRIPTOR.fields}
        spellings = {field.json_name: field.name for field in message.DESCRIPTOR.fields}
        for key, item in node.value.items():
            field = fields.get(spellings.get(key, key))
            where = f"{path}.{key}" if path else key
            if field is None:
                self.report(where, _unknown(key, list(fields), at_top=not path), item)
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
        if field.is_repeated:
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
        if kind in _NAMED and isinstance(node.value, dict):
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
        if kind in _NAMED:
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


def _spelled_out(message: Message, node: Node) -> Node:
    """The mapping that a short form abbreviates."""
    match message:
        case ToolSpec() if isinstance(node.value, str):
            return Node({"name": node}, node.line, None, node.file)
        case TaskContext() if isinstance(node.value, list | str):
            return Node({"tasks": node}, node.line, None, node.file)
        case MemorySpec() if isinstance(node.value, bool):
            return Node({"enabled": node}, node.line, None, node.file)
    return node


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


def _unknown(key: str, known: list[str], *, at_top: bool) -> str:
    if at_top and key in _NOT_PART_OF_A_CREW:
        return _NOT_PART_OF_A_CREW[key]
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown field; did you mean {near[0]!r}?" if near else f"unknown field; expected one of {', '.join(known)}"

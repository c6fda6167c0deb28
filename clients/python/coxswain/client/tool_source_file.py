"""Files of tool sources: one YAML or JSON document in the shape of ToolSourceSpec, with short forms.

name: billing
mcp:
  url: https://mcp.example.com/mcp
secret:
  secret_name: tools/billing
policies:
  - tools: pay
    approval: always       # enum values in short
    timeout: 90s           # durations with units
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coxswain.client.documents import DocumentError, Node, Problem, read_document
from coxswain.client.errors import InvalidArgument
from coxswain.client.message_reader import MessageReader, nearest, violations
from coxswain.orchestrator.v1.tool_source_pb2 import ToolSourceSpec

_ELSEWHERE = {
    "spec": "a file is the plain document: move what is under spec to the top level",
    "groups": "a source belongs to the group of whoever stores it; only the operator's file names groups",
    "enabled": "sources are enabled unless they are `disabled: true`",
    "url": "say what the source speaks, as in mcp: {url: ...}",
}


class _SourceReader(MessageReader):
    elsewhere = _ELSEWHERE


@dataclass(frozen=True, slots=True)
class ToolSourceDocument:
    """A source and the lines of its parts in the file."""

    spec: ToolSourceSpec
    lines: dict[str, int]
    """Line of each field path. Example: ``{"policies[0].timeout": 14}``."""

    def problem(self, field: str, description: str) -> Problem:
        """A problem of a field path, with or without ``spec.`` before, at its line or that of the part around it."""
        path = field.removeprefix("spec.")
        return Problem(path, description, self.lines.get(nearest(path, self.lines), 0))


def load_tool_source(path: Path | str) -> ToolSourceSpec:
    """The source of a YAML or JSON file.

    Raises OSError when it cannot be read and DocumentError with every problem, each with its line and field.
    """
    return read_tool_source(path).spec


def read_tool_source(path: Path | str) -> ToolSourceDocument:
    """As ``load_tool_source``, with the lines."""
    return tool_source_from(read_document(path), path)


def tool_source_from(root: Node, path: Path | str) -> ToolSourceDocument:
    """The source of a document that was read already. Raises DocumentError as ``load_tool_source``."""
    spec = ToolSourceSpec()
    reader = _SourceReader()
    if isinstance(root.value, dict):
        reader.fill(spec, root, "")
    else:
        reader.report("", f"a source is a mapping with name and mcp, grpc, a2a, openapi or http, not {root.kind}", root)
    document = ToolSourceDocument(spec, reader.lines)
    problems = reader.problems or [document.problem(field, description) for field, description in violations(spec)]
    if problems:
        raise DocumentError(path, problems)
    return document


@contextmanager
def naming_lines(document: ToolSourceDocument | None, path: Path | str | None) -> Iterator[None]:
    """Make DocumentError of what a server refuses of a file, with its lines; without a file nothing changes."""
    try:
        yield
    except InvalidArgument as error:
        if document is None or path is None or not error.violations:
            raise
        problems = [document.problem(violation.field, violation.description) for violation in error.violations]
        raise DocumentError(path, problems) from error

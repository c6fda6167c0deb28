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

from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import Message

from coxswain.client.documents import DocumentError, Node, Problem, read_document
from coxswain.client.message_reader import MessageReader, nearest, violations
from coxswain.orchestrator.v1.crew_pb2 import (
    AgentSpec,
    CrewSpec,
    KnowledgeSpec,
    MemorySpec,
    TaskContext,
    TaskSpec,
    ToolSpec,
)

NAMED_PARTS = frozenset({message.DESCRIPTOR.full_name for message in (AgentSpec, TaskSpec, KnowledgeSpec)})
"""Kinds of parts that a file may hold as a mapping by their names."""
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
        return nearest(field.removeprefix("spec."), self.lines)


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
    reader = _CrewReader()
    if isinstance(root.value, dict):
        reader.fill(spec, root, "")
    else:
        reader.report("", f"a crew is a mapping with name, agents and tasks, not {root.kind}", root)
    document = CrewDocument(spec, reader.lines, reader.files)
    problems = reader.problems or [document.problem(path, description) for path, description in violations(spec)]
    if problems:
        raise DocumentError(path, problems)
    return document


class _CrewReader(MessageReader):
    named = NAMED_PARTS
    elsewhere = _NOT_PART_OF_A_CREW

    def spelled_out(self, message: Message, node: Node) -> Node:
        """The mapping that a short form abbreviates."""
        match message:
            case ToolSpec() if isinstance(node.value, str):
                return Node({"name": node}, node.line, None, node.file)
            case TaskContext() if isinstance(node.value, list | str):
                return Node({"tasks": node}, node.line, None, node.file)
            case MemorySpec() if isinstance(node.value, bool):
                return Node({"enabled": node}, node.line, None, node.file)
        return node

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

from pathlib import Path

from coxswain.client.documents import DocumentError, Node, Problem, read_document
from coxswain.client.message_reader import MessageReader, violations
from coxswain.orchestrator.v1.tool_source_pb2 import ToolSourceSpec

_ELSEWHERE = {
    "spec": "a file is the plain document: move what is under spec to the top level",
    "groups": "a source belongs to the group of whoever stores it; only the operator's file names groups",
    "enabled": "sources are enabled unless they are `disabled: true`",
    "url": "say what the source speaks, as in mcp: {url: ...}",
}


class _SourceReader(MessageReader):
    elsewhere = _ELSEWHERE


def load_tool_source(path: Path | str) -> ToolSourceSpec:
    """The source of a YAML or JSON file.

    Raises OSError when it cannot be read and DocumentError with every problem, each with its line and field.
    """
    return tool_source_from(read_document(path), path)


def tool_source_from(root: Node, path: Path | str) -> ToolSourceSpec:
    """The source of a document that was read already. Raises DocumentError as ``load_tool_source``."""
    spec = ToolSourceSpec()
    reader = _SourceReader()
    if isinstance(root.value, dict):
        reader.fill(spec, root, "")
    else:
        reader.report("", f"a source is a mapping with name and mcp, grpc, openapi or http, not {root.kind}", root)
    problems = reader.problems or [
        Problem(field, description, reader.lines.get(field.partition("[")[0], 0))
        for field, description in violations(spec)
    ]
    if problems:
        raise DocumentError(path, problems)
    return spec

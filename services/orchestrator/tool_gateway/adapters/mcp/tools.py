"""Tools as servers list them: checked, cut to size, and with what their calls need."""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.orchestrator.domain.tool_source import ListedTool, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.foreign import shown

MAX_TOOLS = 512
"""Of a source, after its globs."""
MAX_LISTED = 5000
"""That are looked at."""
MAX_LIST_SIZE = 8 * 1024 * 1024
"""Characters of all schemas together, and what holds them."""
MAX_NAME_BYTES = 128
_MAX_SCHEMA_SIZE = 256 * 1024
MAX_DESCRIPTION_BYTES = 4096
_MAX_TITLE_BYTES = 256
_MAX_MARKS = 32
_MARK = "x-mcp-header"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,100}")
_PLAIN = re.compile(r"[\x20-\x7e]*")
_MARKED_TYPES = frozenset({"string", "integer", "boolean"})
_SAFE_INTEGER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class McpTool:
    """A tool of a server."""

    listed: ListedTool
    header_marks: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    """Of arguments that are also sent as headers: where each is, and the end of its header's name."""
    task_required: bool = False
    """Whether a server of the legacy era makes the call as a task only."""
    size: int = 0
    """Of its schemas, see `MAX_LIST_SIZE`."""


class BadTool(ValueError):
    """A tool that cannot be used; the text says why."""


def tool_of(entry: Any, *, modern: bool) -> McpTool:
    """Return a tool from its entry in a list.

    Raises:
        BadTool: it is left out.
    """
    if not isinstance(entry, dict):
        raise BadTool("an entry is not an object")
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name.encode()) <= MAX_NAME_BYTES or shown(name, MAX_NAME_BYTES) != name:
        raise BadTool(f"a name does not have 1 to {MAX_NAME_BYTES} bytes, all of them visible")
    schema = entry.get("inputSchema")
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise BadTool("its inputSchema is not the schema of an object")
    output_schema = entry.get("outputSchema")
    size = _size([schema, output_schema])
    marks = header_marks(schema) if modern else {}
    original = _text(entry.get("description"))
    description, warnings = shown(original, MAX_DESCRIPTION_BYTES), []
    if len(original.encode()) > MAX_DESCRIPTION_BYTES:
        warnings.append(f"the description was cut after {MAX_DESCRIPTION_BYTES} bytes")
    elif description != original:
        warnings.append("hidden or control characters were removed from the description")
    if output_schema is not None and not isinstance(output_schema, dict):
        warnings.append("its outputSchema is not an object and was left out")
        output_schema = None
    annotations = entry.get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    execution = entry.get("execution")
    return McpTool(
        ListedTool(
            name=name,
            description=description,
            arguments_schema=schema,
            title=shown(_text(entry.get("title")) or _text(annotations.get("title")), _MAX_TITLE_BYTES),
            output_schema=output_schema,
            idempotent_hint=_idempotent_hint(annotations),
            warnings=tuple(warnings),
        ),
        marks,
        isinstance(execution, dict) and execution.get("taskSupport") == "required",
        size,
    )


def _size(value: Any) -> int:
    """Return how much a JSON value is, about in bytes.

    Raises:
        BadTool: more than a schema may be.
    """
    size, pending = 0, [value]
    while pending:
        part = pending.pop()
        size += 8
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, dict):
            size += sum(map(len, part)) + 8 * len(part)
            pending += part.values()
        elif isinstance(part, list):
            pending += part
        if size > _MAX_SCHEMA_SIZE:
            raise BadTool(f"its schemas are larger than {_MAX_SCHEMA_SIZE} bytes")
    return size


def within_limit(tools: list[McpTool], source: ToolSourceSpec) -> list[McpTool]:
    """Return the tools if they are not too many, else those that the source's globs choose."""
    if len(tools) <= MAX_TOOLS:
        return tools
    return [tool for tool in tools if source.allows(tool.listed.name)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _idempotent_hint(annotations: Mapping[str, Any]) -> bool | None:
    """Whether calling twice does no harm, as the server says: reading does none."""
    if annotations.get("readOnlyHint") is True:
        return True
    hint = annotations.get("idempotentHint")
    return hint if isinstance(hint, bool) else None


def header_marks(schema: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Return which arguments are also sent as headers.

    Raises:
        BadTool: a mark breaks the rules of the protocol, for which the tool is left out.
    """
    marks: dict[tuple[str, ...], str] = {}
    for path, part in _schemas_in(schema):
        if _MARK not in part:
            continue
        header = part[_MARK]
        if path is None or not path:
            raise BadTool(f"{_MARK} stands where no single argument is meant")
        if not isinstance(header, str) or not _TOKEN.fullmatch(header):
            raise BadTool(f"{_MARK} is not the name of a header")
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in _MARKED_TYPES:
            raise BadTool(f"{_MARK} stands at an argument that is neither a text nor an integer nor a boolean")
        if header.lower() in (known.lower() for known in marks.values()):
            raise BadTool(f"{_MARK} names a header twice")
        marks[path] = header
        if len(marks) > _MAX_MARKS:
            raise BadTool(f"it has more than {_MAX_MARKS} marks {_MARK}")
    return marks


def _schemas_in(root: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...] | None, Mapping[str, Any]]]:
    """Iterate over the objects in a schema, with the path of those that stand for one argument.

    Data (defaults, examples, constants) are no schemas; references are not followed.
    """
    pending: list[tuple[tuple[str, ...] | None, Any]] = [((), root)]
    while pending:
        path, part = pending.pop()
        if isinstance(part, list):
            pending += [(None, item) for item in part]
        if not isinstance(part, dict):
            continue
        yield path, part
        for keyword, value in part.items():
            if keyword in ("default", "examples", "const", "enum"):
                continue
            if keyword == "properties" and isinstance(value, dict):
                pending += [(None if path is None else (*path, name), item) for name, item in value.items()]
            elif keyword in ("patternProperties", "dependentSchemas", "$defs", "definitions") and isinstance(
                value, dict
            ):
                pending += [(None, item) for item in value.values()]
            else:
                pending.append((None, value))


def parameter_headers(marks: Mapping[tuple[str, ...], str], arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that repeat marked arguments; null and absent ones have none."""
    headers = {}
    for path, name in marks.items():
        value: Any = arguments
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, bool):
            headers[f"Mcp-Param-{name}"] = "true" if value else "false"
        elif isinstance(value, str) or (isinstance(value, int) and abs(value) <= _SAFE_INTEGER):
            headers[f"Mcp-Param-{name}"] = header_value(str(value))
        elif isinstance(value, float) and value.is_integer() and abs(value) <= _SAFE_INTEGER:
            headers[f"Mcp-Param-{name}"] = str(int(value))
    return headers


def header_value(text: str) -> str:
    """Return a text as the value of a header: as it is, or in the protocol's base64 form where it has to be."""
    looks_encoded = text.startswith("=?base64?") and text.endswith("?=")
    if _PLAIN.fullmatch(text) and text == text.strip() and not looks_encoded:
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'replace')).decode('ascii')}?="

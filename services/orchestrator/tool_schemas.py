"""JSON schemas of tools that come from outside: which of them can be used at all."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import to_json

from services.orchestrator.json_schemas import schema_error

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 28
_MOST_SHOWN = 100
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def schema_fault(schema: Mapping[str, Any]) -> str:
    """Return why a schema cannot describe the arguments of a tool; empty: it can.

    It takes time that grows with the schema, up to hundredths of a second: many are not checked in an event loop.
    """
    if not is_shallow(schema, MAX_SCHEMA_DEPTH):
        return f"is nested deeper than {MAX_SCHEMA_DEPTH} levels"
    size = len(to_json(schema))
    if size > MAX_SCHEMA_BYTES:
        return f"has {size} bytes as JSON and may have {MAX_SCHEMA_BYTES}"
    if any("\0" in text for text in _texts(schema)):
        return "holds a NUL character"
    if outside := outside_reference(schema):
        return f'refers to "{outside}": references have to stay within the schema'
    if error := schema_error(schema):
        return f"is not a valid JSON schema: {error}"
    if schema.get("type", "object") != "object":
        return 'must describe an object: set "type" to "object"'
    return ""


def outside_reference(schema: Mapping[str, Any]) -> str:
    """Return the beginning of the first reference of a schema that leads out of it; empty if none does."""
    return next((target[:_MOST_SHOWN] for target in _references(schema) if not target.startswith("#")), "")


def is_shallow(value: Any, most: int) -> bool:
    """Return whether a JSON value is nested in at most so many levels."""
    level = [value]
    for _ in range(most):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return True
    return False


def _inside(item: Any) -> Iterator[Any]:
    if isinstance(item, Mapping):
        yield from item.values()
    elif isinstance(item, list):
        yield from item


def _walk(value: Any) -> Iterator[Any]:
    pending = [value]
    while pending:
        item = pending.pop()
        yield item
        pending.extend(_inside(item))


def _texts(value: Any) -> Iterator[str]:
    for item in _walk(value):
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            yield from item


def _references(schema: Any) -> Iterator[str]:
    for item in _walk(schema):
        if isinstance(item, Mapping):
            yield from (target for name in _REFERENCES if isinstance(target := item.get(name), str))

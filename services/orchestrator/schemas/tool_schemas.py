"""Schemas of tools that come from outside, of arguments and of results: which of them can be used at all."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import to_json

from services.orchestrator.schemas.references import outside_reference
from services.orchestrator.schemas.validity import schema_error, values_in, values_of

_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 28


def schema_fault(schema: Mapping[str, Any]) -> str:
    """Return why a schema cannot describe the arguments or the result of a tool; empty: it can.

    It takes time that grows with the schema, up to hundredths of a second: many are not checked in an event loop.
    """
    if not _is_shallow(schema, _MAX_DEPTH):
        return f"is nested deeper than {_MAX_DEPTH} levels"
    size = len(to_json(schema))
    if size > _MAX_BYTES:
        return f"has {size} bytes as JSON and may have {_MAX_BYTES}"
    if any("\0" in text for text in _texts(schema)):
        return "holds a NUL character"
    if outside := outside_reference(schema):
        return f'refers to "{outside}": references have to stay within the schema'
    if error := schema_error(schema):
        return f"is not a valid JSON schema: {error}"
    if schema.get("type", "object") != "object":
        return 'must describe an object: set "type" to "object"'
    return ""


def _is_shallow(value: Any, most: int) -> bool:
    """Return whether a JSON value is nested in at most so many levels."""
    level = [value]
    for _ in range(most):
        level = [inner for item in level for inner in values_of(item)]
        if not level:
            return True
    return False


def _texts(value: Any) -> Iterator[str]:
    for item in values_in(value):
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            yield from item

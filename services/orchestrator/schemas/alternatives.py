"""The schema that the class of structured results is made of: CrewAI's classes know little of alternatives."""

from collections.abc import Mapping
from typing import Any

from services.orchestrator.schemas.validity import values_of

_MOST_PARTS = 5_000
"""Of a schema that a class is made of: CrewAI takes a tenth of a millisecond for each."""
_COMBINED = ("anyOf", "oneOf")


def class_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema that the class is made of, which may have many times the size, within limits."""
    titled, whole = _forms(schema)
    return whole if _size(whole, {}) <= _MOST_PARTS else titled


def loses_properties(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema has so many alternatives that properties beside them are left out of results."""
    titled, whole = _forms(schema)
    size = _size(whole, {})
    return size > _MOST_PARTS and size != _size(titled, {})


def _forms(schema: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    titled = {"title": "Result", **schema}
    return titled, _with_own_parts(titled)


def _size(schema: Any, known: dict[int, int]) -> int:
    """Return how many values a schema has, where those that are there several times count as often."""
    if id(schema) not in known:
        known[id(schema)] = 1 + sum(_size(part, known) for part in values_of(schema))
    return known[id(schema)]


def _with_own_parts(schema: Any) -> Any:
    """Return a schema whose properties are a part of all that stands beside them: CrewAI takes that for all there is.

    Example: {"properties": P, "anyOf": [A]} has {"allOf": [{"properties": P}, A]} in place of A. Alternatives without
    properties of their own are left out: they add nothing to the class.
    """
    if isinstance(schema, list):
        return [_with_own_parts(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    parts = {name: _with_own_parts(part) for name, part in schema.items()}
    if not isinstance(schema.get("properties"), Mapping):
        return parts
    own = {name: parts[name] for name in ("title", "properties", "required") if name in parts}
    for keyword in _COMBINED:
        if not isinstance(parts.get(keyword), list):
            continue
        if all(_is_condition(part) for part in parts[keyword]):
            del parts[keyword]
            parts.setdefault("type", "object")
        else:
            parts[keyword] = [{"allOf": [own, part]} if _may_be_object(part) else part for part in parts[keyword]]
    if isinstance(parts.get("allOf"), list):
        parts["allOf"] = [own, *parts["allOf"]]
    return parts


def _may_be_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type", "object") == "object"


def _is_condition(schema: Any) -> bool:
    """Return whether a schema says something of objects without naming properties that they have."""
    return _may_be_object(schema) and not schema.keys() & {"properties", "$ref", "allOf", "const", "enum", *_COMBINED}

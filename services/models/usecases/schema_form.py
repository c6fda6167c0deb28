"""Faults in the form of JSON schemas: with one of these a schema says nothing, and no answer could be held to it."""

from collections.abc import Iterator, Mapping
from typing import Any

from services.common.errors import FieldViolation

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_SCHEMA = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_SCHEMA_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAPS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_SIZES = frozenset({"maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties"})
_MOST = 10


def schema_faults(path: str, schema: Mapping[str, Any]) -> list[FieldViolation]:
    """Return what is wrong with a schema, the first faults of many; `path` is that of the schema in the request.

    Only what no draft from 4 on allows is a fault. Values that a schema holds as examples are not looked at.
    """
    faults: list[FieldViolation] = []
    pending: list[tuple[str, Any]] = [(path, schema)]
    while pending and len(faults) < _MOST:
        place, part = pending.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            faults.append(FieldViolation(place, "must be a schema: an object, true or false"))
            continue
        for keyword, value in part.items():
            if problem := _problem(keyword, value):
                faults.append(FieldViolation(f"{place}.{keyword}", problem))
            else:
                pending += _parts(f"{place}.{keyword}", keyword, value)
    return faults[:_MOST]


def _problem(keyword: str, value: Any) -> str:
    if keyword == "type":
        named = value if isinstance(value, list) and value else [value]
        return "" if all(name in _TYPES for name in named) else f"must be one or several of {', '.join(_TYPES)}"
    if keyword in _SCHEMA_MAPS:
        return "" if isinstance(value, dict) else "must be an object of schemas by name"
    if keyword in _SCHEMA_LISTS:
        return "" if isinstance(value, list) and value else "must be a list of schemas, one at least"
    if keyword == "required":
        texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
        return "" if texts else "must be a list of the names of properties"
    if keyword == "enum":
        return "" if isinstance(value, list) else "must be a list of the allowed values"
    if keyword in _SIZES:
        return "" if _is_number(value) and value >= 0 and value == int(value) else "must be a whole number from 0 on"
    if keyword == "multipleOf":
        return "" if _is_number(value) and value > 0 else "must be a number greater than 0"
    if keyword in ("minimum", "maximum"):
        return "" if _is_number(value) else "must be a number"
    return ""


def _parts(place: str, keyword: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the schemas within a keyword's value."""
    if keyword in _SCHEMA_MAPS:
        yield from ((f"{place}.{name}", part) for name, part in value.items())
    elif keyword in _SCHEMA_LISTS or (keyword == "items" and isinstance(value, list)):
        yield from ((f"{place}[{index}]", part) for index, part in enumerate(value))
    elif keyword in _SCHEMA or keyword == "items":
        yield place, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

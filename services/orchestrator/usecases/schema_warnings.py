"""What output schemas say in vain: results are read with classes made from them, which know less than JSON schema."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from services.common.errors import FieldViolation
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.json_schemas import schema_error

_MOST_WARNINGS = 20
"""Of one crew. A schema may have ten thousands of places to warn of, each with a path as long as the schema."""
_LONGEST_PLACE = 200
_UNCHECKED = (
    *("minItems", "maxItems", "uniqueItems", "contains", "prefixItems"),
    *("minProperties", "maxProperties", "patternProperties", "propertyNames"),
    *("dependentRequired", "dependentSchemas", "dependencies", "if", "not"),
)
_CHECK_INSTEAD = "is not checked; have it checked with checks[].json_schema"

_LEFT_OUT = (
    "additionalProperties has no effect: properties that are not named are left out of the result; name them, or ask "
    'for a property of type "object" without properties, which may hold any'
)


def schema_warnings(spec: CrewSpec) -> Iterator[FieldViolation]:
    """Yield a warning for each of the first things that output schemas say in vain.

    Nothing is said of what is no schema.
    """
    return islice(_all_warnings(spec), _MOST_WARNINGS)


def _all_warnings(spec: CrewSpec) -> Iterator[FieldViolation]:
    for index, task in enumerate(spec.tasks):
        schema = task.output_schema or {}
        if schema_error(schema):
            continue
        path = f"spec.tasks[{index}].output_schema"
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                yield FieldViolation(path, f'{keyword} beside type "object" {_CHECK_INSTEAD}')
        for place, warning in _warnings(schema, ()):
            yield FieldViolation(path, f"{_shown(place)}: {warning}" if place else warning)


def _shown(place: tuple[str, ...]) -> str:
    path = ".".join(part[: _LONGEST_PLACE + 1] for part in place)
    return path if len(path) <= _LONGEST_PLACE else f"{path[:_LONGEST_PLACE]}..."


def _warnings(schema: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if not isinstance(schema, Mapping):
        return
    for keyword in _UNCHECKED:
        if keyword in schema:
            yield place, f"{keyword} {_CHECK_INSTEAD}"
    others = schema.get("additionalProperties", False)
    if schema.get("properties") and others is not False:
        yield place, _LEFT_OUT
    elif isinstance(others, Mapping) and others:
        yield place, f"additionalProperties {_CHECK_INSTEAD}"
    for keyword in ("properties", "$defs", "definitions"):
        for name, part in schema.get(keyword, {}).items():
            yield from _warnings(part, (*place, keyword, name))
    yield from _warnings(schema.get("items"), (*place, "items"))
    for keyword in ("anyOf", "oneOf", "allOf"):
        for index, part in enumerate(schema.get(keyword, ())):
            yield from _warnings(part, (*place, keyword, str(index)))

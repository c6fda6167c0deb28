"""What output schemas say in vain: what an object holds beside the properties it names is no part of a result."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from services.common.errors import FieldViolation
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.schemas.alternatives import loses_properties
from services.orchestrator.schemas.validity import parts_of, schema_error
from services.orchestrator.schemas.violations import BadPattern, compile_pattern

_MOST_WARNINGS = 20
"""Of one crew. A schema may have ten thousands of places to warn of, each with a path as long as the schema."""
_LONGEST_PLACE = 200
_MOST_NAMES = 5

_LEFT_OUT = (
    "has no effect: properties that are not named are left out of the result; name them, or ask for a property of "
    'type "object" without properties, which may hold any'
)
_TOO_MANY = (
    "has too many alternatives (anyOf, oneOf, allOf) within each other: properties that stand beside them are left out "
    "of the result; say it with fewer"
)
_REST = ("additionalProperties", "patternProperties", "unevaluatedProperties")

_Place = tuple[str, ...]


def schema_warnings(spec: CrewSpec) -> Iterator[FieldViolation]:
    """Yield a warning for each of the first things that output schemas say in vain.

    Nothing is said of what is no schema.
    """
    return islice(_all_warnings(spec), _MOST_WARNINGS)


def _all_warnings(spec: CrewSpec) -> Iterator[FieldViolation]:
    for index, task in enumerate(spec.tasks):
        if task.output_schema is None or schema_error(task.output_schema):
            continue
        path = f"spec.tasks[{index}].output_schema"
        if loses_properties(task.output_schema):
            yield FieldViolation(path, _TOO_MANY)
        for place, warning in _warnings(task.output_schema, ()):
            yield FieldViolation(path, f"{_shown(place)}: {warning}" if place else warning)


def _shown(place: _Place) -> str:
    path = ".".join(part[: _LONGEST_PLACE + 1] for part in place)
    return path if len(path) <= _LONGEST_PLACE else f"{path[:_LONGEST_PLACE]}..."


def _warnings(schema: Any, place: _Place) -> Iterator[tuple[_Place, str]]:
    named = schema.get("properties")
    for keyword in _REST if named else ("unevaluatedProperties",):
        if schema.get(keyword, False) is not False:
            yield place, f"{keyword} {_LEFT_OUT if named else 'is not checked'}"
    if "dependencies" in schema:
        yield place, "dependencies is not checked; say dependentRequired or dependentSchemas"
    for keyword, patterns in (
        ("pattern", [schema.get("pattern", "")]),
        ("patternProperties", [*schema.get("patternProperties", ())]),
    ):
        for pattern in patterns:
            if not _is_known(pattern):
                yield place, f"{keyword} {pattern[:_LONGEST_PLACE]} is not checked: it is no regular expression of RE2"
    yield from ((place, warning) for warning in _named_elsewhere(schema, is_root=not place))
    for inner, part in parts_of(schema):
        yield from _warnings(part, (*place, *inner))


def _is_known(pattern: str) -> bool:
    try:
        compile_pattern(pattern)
    except BadPattern:
        return False
    return True


def _named_elsewhere(schema: Mapping[str, Any], *, is_root: bool) -> Iterator[str]:
    """Yield a warning for the properties that an object names in conditions alone."""
    whole = [schema, *(part for part in schema.get("allOf", ()) if isinstance(part, Mapping))]
    own = {name for part in whole for name in part.get("properties", ())}
    for part in whole if own else ():
        for keyword, branch in _branches(part, is_root=is_root):
            names = [f'"{name[:_LONGEST_PLACE]}"' for name in branch.get("properties", ()) if name not in own]
            if names:
                more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
                yield (
                    f"what only {keyword} names is left out of the result: {', '.join(names[:_MOST_NAMES])}{more}; "
                    'name it in the "properties" of the object too'
                )


def _branches(schema: Mapping[str, Any], *, is_root: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the schemas that hold of an object in some cases, each with its keyword.

    Of the alternatives for a property each is a class of its own; the result itself is of one class.
    """
    found = [(keyword, schema.get(keyword)) for keyword in ("then", "else")]
    found += [("dependentSchemas", part) for part in schema.get("dependentSchemas", {}).values()]
    if is_root:
        found += [(keyword, part) for keyword in ("anyOf", "oneOf") for part in schema.get(keyword, ())]
    yield from ((keyword, part) for keyword, part in found if isinstance(part, Mapping))

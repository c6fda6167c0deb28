"""The class that a structured result is read with, and the JSON schema that the result has to follow beside it.

CrewAI makes the class. It knows types, names and a few limits; all else that a schema says is compared with the schema.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from crewai.utilities.pydantic_schema_utils import create_model_from_schema
from pydantic import BaseModel, ConfigDict, create_model

from services.orchestrator.schemas.alternatives import class_schema
from services.orchestrator.schemas.validity import parts_of
from services.orchestrator.schemas.violations import Violations, schema_violations


class _Rules(NamedTuple):
    violations: Violations
    names: frozenset[str]
    """The properties that the schema names anywhere."""


_rules: WeakKeyDictionary[type[BaseModel], _Rules] = WeakKeyDictionary()


def result_class(schema: Mapping[str, Any]) -> type[BaseModel]:
    """Return the class for results that follow a schema. Raises whatever CrewAI raises for one that it cannot use."""
    model: type[BaseModel] = create_model_from_schema(class_schema(schema))
    if not model.model_fields:
        # CrewAI closes every object, one without named properties as well: its only value would be {}.
        model = create_model(model.__name__, __config__=ConfigDict(extra="allow"))
    _rules[model] = _Rules(schema_violations(schema), frozenset(_names(schema)))
    return model


def violations_of(result: BaseModel, given: Any) -> list[str]:
    """Return what of a result does not follow the schema of its class; `given` is the JSON that it was read from.

    What the class has turned into its type counts as that, and null as left out where a property need not be there.
    What the class leaves out does not count. As the class knows little of conditions and alternatives, a result also
    follows when it does with the left out properties that the schema names somewhere, or as it was given.
    """
    rules = _rules.get(type(result))
    if rules is None:
        return []
    found = rules.violations(_as_read(given, result, frozenset()))
    if found and rules.violations(_as_read(given, result, rules.names)) and rules.violations(given):
        return found
    return []


def _as_read(given: Any, read: Any, kept: frozenset[str]) -> Any:
    """Return the JSON of what was read, with those of the left out properties that are to be `kept`."""
    match read:
        case BaseModel() if isinstance(given, dict):
            fields = {field.alias or name: (name, field) for name, field in type(read).model_fields.items()}
            keeps_all = not fields
            values = {}
            for key, value in given.items():
                name, field = fields.get(key, ("", None))
                if field is None:
                    if keeps_all or key in kept:
                        values[key] = value
                elif (inner := getattr(read, name)) is not None or field.is_required():
                    values[key] = _as_read(value, inner, kept)
            return values
        case dict() if isinstance(given, dict):
            return {key: _as_read(value, read.get(key), kept) for key, value in given.items()}
        case list() if isinstance(given, list) and len(given) == len(read):
            return [_as_read(value, inner, kept) for value, inner in zip(given, read, strict=True)]
        case str() | int() | float():
            return read
        case _:
            # Of a class of its own, such as a date: as it was written.
            return given


def _names(schema: Any) -> Iterator[str]:
    for name in ("properties", "dependentRequired", "dependentSchemas"):
        yield from schema.get(name, ())
    yield from schema.get("required", ())
    for _, part in parts_of(schema):
        yield from _names(part)

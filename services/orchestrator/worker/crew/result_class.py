"""The class that a structured result is read with, and the JSON schema that the result has to follow beside it.

CrewAI makes the class. It knows types, names and a few limits; all else that a schema says is compared with the schema.
"""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from crewai.utilities.pydantic_schema_utils import create_model_from_schema
from pydantic import BaseModel, ConfigDict, create_model

from services.orchestrator.schema_violations import Violations, schema_violations

_rules: WeakKeyDictionary[type[BaseModel], Violations] = WeakKeyDictionary()


def result_class(schema: Mapping[str, Any]) -> type[BaseModel]:
    """Return the class for results that follow a schema. Raises whatever CrewAI raises for one that it cannot use."""
    model: type[BaseModel] = create_model_from_schema(_with_own_parts({"title": "Result", **schema}))
    if not model.model_fields:
        # CrewAI closes every object, one without named properties as well: its only value would be {}.
        model = create_model(model.__name__, __config__=ConfigDict(extra="allow"))
    _rules[model] = schema_violations(schema, leaving_out=True)
    return model


def violations_of(result: BaseModel, given: Any) -> list[str]:
    """Return what of a result does not follow the schema of its class; `given` is the JSON that it was read from.

    What the class has turned into its type counts as that, and null as left out where a property need not be there.
    """
    rules = _rules.get(type(result))
    return [] if rules is None else rules(_as_read(given, result))


def _as_read(given: Any, read: Any) -> Any:
    match read:
        case BaseModel() if isinstance(given, dict):
            fields = {field.alias or name: (name, field) for name, field in type(read).model_fields.items()}
            values = {}
            for key, value in given.items():
                name, field = fields.get(key, ("", None))
                if field is None:
                    values[key] = value
                elif (inner := getattr(read, name)) is not None or field.is_required():
                    values[key] = _as_read(value, inner)
            return values
        case dict() if isinstance(given, dict):
            return {key: _as_read(value, read.get(key)) for key, value in given.items()}
        case list() if isinstance(given, list) and len(given) == len(read):
            return [_as_read(value, inner) for value, inner in zip(given, read, strict=True)]
        case str() | int() | float():
            return read
        case _:
            # Of a class of its own, such as a date: as it was written.
            return given


def _with_own_parts(schema: Any) -> Any:
    """Return a schema whose properties are a part of all that stands beside them: CrewAI takes that for all there is.

    Example: {"properties": P, "anyOf": [A]} has {"allOf": [{"properties": P}, A]} in place of A.
    """
    if isinstance(schema, list):
        return [_with_own_parts(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    parts = {name: _with_own_parts(part) for name, part in schema.items()}
    if not isinstance(schema.get("properties"), Mapping):
        return parts
    own = {name: parts[name] for name in ("title", "properties", "required") if name in parts}
    for keyword in ("anyOf", "oneOf"):
        if isinstance(parts.get(keyword), list):
            parts[keyword] = [{"allOf": [own, part]} if _may_be_object(part) else part for part in parts[keyword]]
    if isinstance(parts.get("allOf"), list):
        parts["allOf"] = [own, *parts["allOf"]]
    return parts


def _may_be_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type", "object") == "object"

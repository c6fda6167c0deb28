"""What is wrong with the settings of a tool, in plain words."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jsonschema import Draft202012Validator

from services.common.errors import FieldViolation
from services.orchestrator.domain.crew import ToolSpec
from services.orchestrator.suggestions import suggestion
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_identity import source_of

_NO_SETTINGS: Mapping[str, Any] = {"type": "object", "additionalProperties": False}
_MOST_SHOWN = 100
_TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "text",
}


def setting_faults(spec: ToolSpec, path: str) -> list[FieldViolation]:
    """Return what is wrong with the settings of a tool that there is, at `path`."""
    schema = _NO_SETTINGS if source_of(spec.name) else TOOLS[spec.name].config_schema
    errors = sorted(Draft202012Validator(schema).iter_errors(spec.config), key=lambda error: list(map(str, error.path)))
    return [
        FieldViolation(
            path + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.path),
            setting_fault(error),
        )
        for error in errors
    ]


def setting_fault(error: Any) -> str:
    """Return what is wrong and what is allowed; `error` is a ValidationError of jsonschema."""
    return _WORDS.get(str(error.validator), _other)(error)


def _type(error: Any) -> str:
    wanted = [error.validator_value] if isinstance(error.validator_value, str) else list(error.validator_value)
    return f"has to be {_either(_TYPES.get(kind, kind) for kind in wanted)}, and is {_shown(error.instance)}"


def _required(error: Any) -> str:
    missing = [name for name in error.validator_value if name not in error.instance]
    return f"needs {_all(missing)}"


def _unknown(error: Any) -> str:
    known: Mapping[str, Any] = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
    extra = [name for name in error.instance if name not in known]
    if not known:
        return "has no settings"
    return "; ".join(f"has no setting {_shown(name)}, {suggestion(name, known)}" for name in extra)


def _enum(error: Any) -> str:
    return f"has to be {_either(map(_shown, error.validator_value))}, and is {_shown(error.instance)}"


def _bound(words: str) -> Callable[[Any], str]:
    return lambda error: f"has to be {words} {error.validator_value}, and is {_shown(error.instance)}"


def _length(words: str) -> Callable[[Any], str]:
    return lambda error: f"{words.format(error.validator_value)}, and has {len(error.instance)}"


def _other(error: Any) -> str:
    return f"{_shown(error.instance)} is not allowed here: {error.validator} is {_shown(error.validator_value)}"


_WORDS: Mapping[str, Callable[[Any], str]] = {
    "type": _type,
    "required": _required,
    "additionalProperties": _unknown,
    "enum": _enum,
    "const": lambda error: f"has to be {_shown(error.validator_value)}, and is {_shown(error.instance)}",
    "minimum": _bound("at least"),
    "maximum": _bound("at most"),
    "exclusiveMinimum": _bound("more than"),
    "exclusiveMaximum": _bound("less than"),
    "minLength": _length("needs {} characters or more"),
    "maxLength": _length("may have {} characters"),
    "minItems": _length("needs {} entries or more"),
    "maxItems": _length("may have {} entries"),
    "pattern": lambda error: f"has to match {error.validator_value}, and is {_shown(error.instance)}",
}


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else "null" if value is None else str(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _either(texts: Iterable[str]) -> str:
    return " or ".join(texts)


def _all(names: Iterable[str]) -> str:
    return " and ".join(f'"{name}"' for name in names)

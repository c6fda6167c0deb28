"""What of a value does not follow a JSON schema of draft 2020-12, in time that no pattern of the schema decides.

`jsonschema` matches with Python's regular expressions, which may take for ever; patterns are those of RE2 here. It also
compares each item with each other one where they have to differ, and divides floats as they are.
"""

import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import re2
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

Violations = Callable[[Any], list[str]]
"""Returns what is wrong with a value, the first violations of many, each with its place; empty if nothing is."""

_MOST_VIOLATIONS = 5
_MOST_CHARACTERS = 200
_ROUNDING = 4
"""How many units in the last place a division of floats may be off."""
_QUIET = re2.Options()
_QUIET.log_errors = False


class BadPattern(ValueError):
    """A text is not a regular expression of RE2; it says why."""


def compile_pattern(text: str) -> Any:
    """Return a regular expression of RE2. Raises BadPattern."""
    try:
        return re2.compile(text, _QUIET)
    except re2.error as error:
        said = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise BadPattern(f"is not a regular expression of RE2: {said}") from error


def schema_violations(schema: Mapping[str, Any]) -> Violations:
    """Return what checks values against a schema that `schema_error` has accepted.

    Patterns that RE2 does not know, and references that lead nowhere, are no rules. A schema that cannot be applied is
    a violation of every value that comes to it; nothing is raised.
    """
    # Without what it refers to elsewhere, which would be fetched.
    validator = _Validator(schema, registry=Registry())

    def violations(value: Any) -> list[str]:
        found: list[str] = []
        try:
            for error in validator.iter_errors(value):
                where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.path).lstrip(".")
                found.append(f"{where[:_MOST_CHARACTERS]}: {_text(error)}" if where else _text(error))
                if len(found) == _MOST_VIOLATIONS:
                    break
        except RecursionError:
            found.append("it is nested too deeply to be compared with the schema")
        except Exception as error:  # noqa: BLE001 - whatever the library makes of a schema that is none
            found.append(f"it cannot be compared with the schema: {error}"[:_MOST_CHARACTERS])
        return found

    return violations


def _text(error: ValidationError) -> str:
    """Return what is wrong; a long value is not quoted: what is wrong with it would be cut off."""
    rule = json.dumps(error.validator_value, ensure_ascii=False, default=str)
    if len(error.message) > _MOST_CHARACTERS:
        return f"does not follow {error.validator}: {rule}"[:_MOST_CHARACTERS]
    bare = isinstance(error.validator_value, int | float) and not isinstance(error.validator_value, bool)
    return f"{error.message} ({error.validator}: {rule})" if bare else error.message


def _matches(pattern: str, text: str) -> bool | None:
    """Return whether a pattern matches a text; None where it is not one of RE2."""
    try:
        return bool(re2.search(pattern, text, _QUIET))
    except re2.error:
        return None


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and _matches(pattern, instance) is False:
        yield ValidationError(f"{instance[:100]!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, rule in patterns.items():
            for name in (name for name in instance if _matches(pattern, name)):
                yield from validator.descend(instance[name], rule, path=name, schema_path=pattern)


def _others(instance: Any, schema: Any) -> list[str]:
    """Return the properties that a schema has neither a name nor a pattern for."""
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    return [name for name in instance if name not in named and not any(_matches(one, name) for one in patterns)]


def _additional_properties(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    others = _others(instance, schema) if validator.is_type(instance, "object") else []
    if rule is False and others:
        yield ValidationError(f"it must not have {', '.join(others)}: the schema names no such property")
    elif isinstance(rule, Mapping):
        for name in others:
            yield from validator.descend(instance[name], rule, path=name)


def _unique_items(validator: Any, rule: bool, instance: Any, _: Any) -> Iterator[ValidationError]:
    if rule and validator.is_type(instance, "array"):
        seen: set[Hashable] = set()
        for index, item in enumerate(map(_hashable, instance)):
            if item in seen:
                yield ValidationError(f"item {index} is there twice")
                return
            seen.add(item)


def _hashable(value: Any) -> Hashable:
    """Return what is equal for values that are equal in JSON, where true is not 1."""
    match value:
        case dict():
            return frozenset((name, _hashable(inner)) for name, inner in value.items())
        case list():
            return tuple(map(_hashable, value))
        case _:
            return (isinstance(value, bool), value)


def _multiple_of(validator: Any, unit: float, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "number") and not _is_multiple(instance, unit):
        yield ValidationError(f"{instance!r} is not a multiple of {unit}")


def _is_multiple(value: float, unit: float) -> bool:
    if isinstance(value, int) and isinstance(unit, int):
        return value % unit == 0
    try:
        times = value / unit
    except OverflowError:
        return False
    return math.isfinite(times) and abs(times - round(times)) <= _ROUNDING * math.ulp(times)


def _reference(validator: Any, target: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    try:
        yield from Draft202012Validator.VALIDATORS["$ref"](validator, target, instance, schema)
    except Unresolvable:
        return


_RULES = {
    "$ref": _reference,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "multipleOf": _multiple_of,
}
_Validator: Any = extend(Draft202012Validator, _RULES)  # type: ignore[no-untyped-call]

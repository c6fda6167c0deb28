"""Checks of results that need no model."""

import json
from collections.abc import Callable
from typing import Any

import re2
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from referencing import Registry

from services.orchestrator.domain.crew import OutputCheck, OutputLength
from services.orchestrator.expressions import BadExpression, Expression, NotEvaluated
from services.orchestrator.json_schemas import schema_error

Check = Callable[[str, Any], str]
"""Returns what is wrong with a text and its structured form; empty if nothing is."""

_MOST_VIOLATIONS = 5
_QUIET = re2.Options()
_QUIET.log_errors = False


class BadCheck(ValueError):
    """The check cannot be made as it is described."""


def compile_check(check: OutputCheck) -> Check:
    """Return what does a check. Not in an event loop: it may have an expression. Raises BadCheck."""
    found = _compile(check)
    if not check.message:
        return found
    return lambda text, structured: check.message if found(text, structured) else ""


def _compile(check: OutputCheck) -> Check:
    if check.matches:
        pattern = _pattern(check.matches)
        return lambda text, _: "" if pattern.search(text) else f"it has to match the pattern {check.matches}"
    if check.matches_not:
        unwanted = _pattern(check.matches_not)
        return lambda text, _: f"it must not match the pattern {check.matches_not}" if unwanted.search(text) else ""
    if check.characters is not None:
        return _length_check(check.characters, "characters", len)
    if check.words is not None:
        return _length_check(check.words, "words", lambda text: len(text.split()))
    if check.json_schema is not None:
        return _schema_check(check.json_schema)
    if check.required_words:
        return lambda text, _: _listed("it has to have", [w for w in check.required_words if not _has(text, w)])
    if check.forbidden_words:
        return lambda text, _: _listed("it must not have", [w for w in check.forbidden_words if _has(text, w)])
    return _expression_check(check.expression)


def _pattern(text: str) -> Any:
    try:
        return re2.compile(text, _QUIET)
    except re2.error as error:
        said = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise BadCheck(f"is not a regular expression of RE2: {said}") from error


def _length_check(length: OutputLength, unit: str, measure: Callable[[str], int]) -> Check:
    if not (length.min or length.max):
        raise BadCheck("needs min or max")
    if length.max and length.min > length.max:
        raise BadCheck(f"has min {length.min} above max {length.max}")

    def check(text: str, _: Any) -> str:
        size = measure(text)
        if size < length.min:
            return f"it has {size} {unit} and needs at least {length.min}"
        if length.max and size > length.max:
            return f"it has {size} {unit} and may have at most {length.max}"
        return ""

    return check


def _listed(begin: str, words: list[str]) -> str:
    return f"{begin} {', '.join(words)}" if words else ""


def _has(text: str, word: str) -> bool:
    """Return whether a text has a word or phrase that is no part of a longer word."""
    folded, wanted = text.casefold(), word.casefold()
    start = folded.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        if not (start and _joined(folded[start - 1], wanted[0])) and not (
            end < len(folded) and _joined(wanted[-1], folded[end])
        ):
            return True
        start = folded.find(wanted, start + 1)
    return False


def _joined(before: str, after: str) -> bool:
    return (before.isalnum() or before == "_") and (after.isalnum() or after == "_")


def _matches_pattern(_: Any, pattern: str, instance: Any, __: Any) -> Any:
    if isinstance(instance, str) and not re2.search(pattern, instance, _QUIET):
        yield ValidationError(f"{instance[:100]!r} does not match {pattern!r}")


_Validator: Any = extend(Draft202012Validator, {"pattern": _matches_pattern})  # type: ignore[no-untyped-call]
# Its keys are regular expressions of Python, which may take for ever.
_UNSUPPORTED = ("patternProperties",)


def _schema_check(schema: dict[str, Any]) -> Check:
    _check_schema(schema)
    # Without what it refers to elsewhere, which would be fetched.
    validator = _Validator(schema, registry=Registry())

    def check(text: str, _: Any) -> str:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return "it has to be JSON and nothing else"
        violations = []
        for error in validator.iter_errors(value):
            where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.path).lstrip(".")
            violations.append(f"{where}: {error.message[:200]}" if where else error.message[:200])
            if len(violations) == _MOST_VIOLATIONS:
                break
        return f"it does not follow the JSON schema: {'; '.join(violations)}" if violations else ""

    return check


def _check_schema(schema: dict[str, Any]) -> None:
    if error := schema_error(schema):
        raise BadCheck(f"is not a valid JSON schema: {error}")
    pending: list[Any] = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            pending += part.values()
            for name in _UNSUPPORTED:
                if name in part:
                    raise BadCheck(f"has {name}, which cannot be checked here; describe the properties by name")
            if isinstance(part.get("pattern"), str):
                _pattern(part["pattern"])
            if isinstance(part.get("$ref"), str) and not part["$ref"].startswith("#"):
                raise BadCheck(f"refers to {part['$ref']!r} outside of itself; put it into $defs")
        elif isinstance(part, list):
            pending += part


def _expression_check(text: str) -> Check:
    try:
        expression = Expression(text)
    except BadExpression as error:
        raise BadCheck(str(error)) from error
    unknown = sorted(expression.names() - {"output"})
    if unknown:
        raise BadCheck(f"names {', '.join(unknown)}, which is not known; there is output.text and output.structured")

    def check(output: str, structured: Any) -> str:
        try:
            holds = expression.holds({"output": {"text": output, "structured": structured}})
        except NotEvaluated as error:
            return f"{text} cannot be evaluated for it: {error}"
        return "" if holds else f"{text} has to be true of it"

    return check

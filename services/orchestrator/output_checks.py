"""Checks of results that need no model."""

import json
from collections.abc import Callable
from typing import Any

from services.orchestrator.domain.crew import OutputCheck, OutputLength
from services.orchestrator.expressions import BadExpression, Expression, NotEvaluated
from services.orchestrator.schemas.references import reference_error
from services.orchestrator.schemas.validity import schema_error, values_in
from services.orchestrator.schemas.violations import BadPattern, compile_pattern, schema_violations

Check = Callable[[str, Any], str]
"""Returns what is wrong with a text and its structured form; empty if nothing is."""

# `jsonschema` finds out which properties are unevaluated with Python's regular expressions, which may take for ever.
_UNSUPPORTED = {"unevaluatedProperties", "patternProperties"}


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
        return compile_pattern(text)
    except BadPattern as error:
        raise BadCheck(str(error)) from error


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


def _schema_check(schema: dict[str, Any]) -> Check:
    _check_schema(schema)
    violations = schema_violations(schema)

    def check(text: str, _: Any) -> str:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return "it has to be JSON and nothing else"
        found = violations(value)
        return f"it does not follow the JSON schema: {'; '.join(found)}" if found else ""

    return check


def _check_schema(schema: dict[str, Any]) -> None:
    if error := schema_error(schema):
        raise BadCheck(f"is not a valid JSON schema: {error}")
    if lost := reference_error(schema):
        raise BadCheck(lost)
    used: set[str] = set()
    for part in values_in(schema):
        if isinstance(part, dict):
            used |= part.keys()
            for pattern in _patterns(part):
                _pattern(pattern)
    if used >= _UNSUPPORTED:
        raise BadCheck("has unevaluatedProperties and patternProperties, which cannot be checked together")


def _patterns(part: dict[str, Any]) -> list[str]:
    patterns = part.get("patternProperties")
    return [
        *([part["pattern"]] if isinstance(part.get("pattern"), str) else []),
        *(patterns if isinstance(patterns, dict) else []),
    ]


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

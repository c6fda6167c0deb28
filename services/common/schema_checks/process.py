"""The helper process that checks answers against schemas.

Schemas and answers come from outside: a regular expression may take years, a few nested alternatives too, and none of
that may hold the service. So each check has its share of processor time here, and is given up when that is spent.

It is run by its path and in isolation, and speaks as `helper_program` says. It reads `{"schema", "text"}` and writes
`{"text", "thoughts", "violations"}`: the JSON found in the text, what was thought before it, and what of it does not
follow the schema; or `{"given_up"}`, why it could not be checked.
"""

import contextlib
import functools
import json
import re
import resource
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend, validator_for
from referencing.jsonschema import EMPTY_REGISTRY

_CPU_SECONDS = 1.0
# Where exceptions are ignored, such as in the end of a generator, the first one gets lost.
_REMINDER_SECONDS = 0.05
_MAX_VIOLATIONS = 10
_MAX_RULE_CHARACTERS = 200
_FENCE = "```"
_THOUGHTS = "<think>"
_THOUGHTS_END = "</think>"
_ROOT = "the answer"
_MOST_LEVELS = 100
"""Of an answer: a schema that refers to itself goes along."""
_MOST_CALLS = 20_000
"""Within each other: 200 for each level of an answer, where a schema takes a dozen for each rule that holds another."""
_STACK_BYTES = 64 * 1024 * 1024
"""For so many calls with room to spare; they take 8 MB."""
_TOO_DEEP = f"{_ROOT}: must not be nested deeper than {_MOST_LEVELS} levels"


class _OutOfTime(BaseException):
    """The check has spent its processor time."""


def check(schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return what is found in a text, and what of it does not follow a schema."""
    found, thoughts = _parted(text)
    try:
        document = json.loads(found)
    except ValueError:
        return {"text": found, "thoughts": thoughts, "violations": [f"{_ROOT}: has to be JSON and nothing else"]}
    except RecursionError:
        return {"text": found, "thoughts": thoughts, "violations": [_TOO_DEEP]}
    if _is_too_deep(document):
        return {"text": found, "thoughts": thoughts, "violations": [_TOO_DEEP]}
    # Nothing is ever fetched: a reference leads somewhere within the schema.
    validator = _with_lenient_patterns(validator_for(schema, Draft202012Validator))(schema, registry=EMPTY_REGISTRY)
    violations: dict[str, None] = {}
    for error in validator.iter_errors(document):
        violations[f"{_path(error, schema)}: {_rule(error)}"] = None
        if len(violations) == _MAX_VIOLATIONS:
            break
    return {"text": found, "thoughts": thoughts, "violations": list(violations)}


def _is_too_deep(document: Any) -> bool:
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(_MOST_LEVELS):
        children = (child for part in level for child in (part.values() if isinstance(part, dict) else part))
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _parted(text: str) -> tuple[str, str]:
    """Return the answer in a text, out of the code fence that holds all of it, and the thoughts before it."""
    thoughts = ""
    found = text.strip()
    if found.startswith(_THOUGHTS) and _THOUGHTS_END in found:
        thoughts, _, found = found.removeprefix(_THOUGHTS).partition(_THOUGHTS_END)
        found = found.strip()
    if found.startswith(_FENCE) and found.endswith(_FENCE) and "\n" in found:
        head, _, body = found.removesuffix(_FENCE).partition("\n")
        if head.removeprefix(_FENCE).strip().lower() in ("", "json"):
            found = body.strip()
    # An answer that is JSON alone stays as it is, to the letter.
    return (text, "") if found == text.strip() else (found, thoughts)


@functools.cache
def _with_lenient_patterns(validator: Any) -> Any:
    """Return a class of validators that ignores regular expressions which Python does not know."""

    def pattern(validator: Any, expression: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        with contextlib.suppress(re.error):
            yield from standard["pattern"](validator, expression, instance, schema) or ()

    standard = validator.VALIDATORS
    return extend(validator, {"pattern": pattern})  # type: ignore[no-untyped-call]


def _path(error: ValidationError, schema: Any) -> str:
    """Return where an error is, with the names that the schema gives: others are a part of the answer."""
    named = set(_property_names(schema)) if error.absolute_path else set()
    path = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step if step in named else '*'}" for step in error.absolute_path
    )
    return path.removeprefix(".") or _ROOT


def _property_names(schema: Any) -> Iterator[str]:
    pending = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        elif isinstance(part, dict):
            if isinstance(part.get("properties"), dict):
                yield from part["properties"]
            pending += part.values()


def _rule(error: ValidationError) -> str:
    """Return what a schema asks for, in its own words and none of the answer's."""
    keyword: Any = error.validator
    value: Any = error.validator_value
    instance: Any = error.instance
    if keyword is None:
        return "must not be there"
    if keyword == "type":
        return f"has to be of type {' or '.join(_listed(value))}"
    if keyword == "required":
        missing = [name for name in _listed(value) if name not in instance]
        return f"has to have {', '.join(missing)}"
    if keyword == "enum":
        return _short(f"has to be one of {json.dumps(value, ensure_ascii=False)}")
    if keyword == "additionalProperties":
        return "must not have properties that the schema does not name"
    if isinstance(value, dict | list):
        return f"has to follow {keyword}"
    return _short(f"has to follow {keyword} {json.dumps(value, ensure_ascii=False)}")


def _listed(value: Any) -> Iterable[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _short(text: str) -> str:
    return text if len(text) <= _MAX_RULE_CHARACTERS else f"{text[: _MAX_RULE_CHARACTERS - 3]}..."


class _Clock:
    """Ends a check that has spent its processor time, and nothing else."""

    def __init__(self) -> None:
        self._checking = False
        signal.signal(signal.SIGPROF, self._ring)

    def check(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response to a request."""
        try:
            self._checking = True
            signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS, _REMINDER_SECONDS)
            response = check(request["schema"], request["text"])
            self._checking = False
        except _OutOfTime:
            self._checking = False
            response = {"given_up": "time"}
        except Exception as error:  # noqa: BLE001 - whatever a schema makes of it, it is no answer's fault
            self._checking = False
            response = {"given_up": type(error).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        return response

    def _ring(self, _signal: int, _frame: Any) -> None:
        if self._checking:
            raise _OutOfTime


def _allow_nested_calls() -> None:
    """Let a schema of several rules in each other, that refers to itself, go along with the deepest answer.

    Where the system keeps the stack small, Python's own limit stays.
    """
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    if most == resource.RLIM_INFINITY or most >= _STACK_BYTES:
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, most))
        sys.setrecursionlimit(_MOST_CALLS)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from services.common.helper_program import serve

    _allow_nested_calls()
    serve(_Clock().check)

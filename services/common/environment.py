"""Settings out of environment variables; a refused one is named as the operator wrote it."""

import json
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic_settings
from pydantic import AliasChoices, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from services.common.logging import is_secret_name
from services.common.startup import StartError

S = TypeVar("S", bound=BaseSettings)

_READ: set[tuple[type[BaseSettings], str]] = set()

_LONGEST_VALUE = 80
_USER_INFO = re.compile(r"(?<=://)[^/\s]*@")
_SOURCE_ERROR = re.compile(r'field "(\w+)"')
_BOUNDS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))


class SettingsError(StartError):
    """Settings were refused: one line for each."""


def read_settings(kind: type[S], prefix: str | None = None) -> S:
    """Return settings as the environment has them; `prefix` replaces the one of the class.

    Raises:
        SettingsError: each line names a variable, its value unless it is secret, what is allowed, and what it sets.
    """
    used = (prefix if prefix is not None else kind.model_config.get("env_prefix", "")).upper()
    _READ.add((kind, used))
    reader = _Reader(kind, used)
    try:
        return kind() if prefix is None else kind(_env_prefix=prefix)
    except ValidationError as error:
        lines = dict.fromkeys(reader.refusal(fault) for fault in error.errors(include_url=False))
        raise SettingsError("\n".join(lines)) from None
    except pydantic_settings.SettingsError as error:
        raise SettingsError(reader.unreadable(error)) from None


def read_kinds() -> frozenset[tuple[type[BaseSettings], str]]:
    """Return the kinds of settings that this process has read so far, with their prefixes."""
    return frozenset(_READ)


def variables_of(kind: type[BaseSettings], prefix: str) -> Iterator[str]:
    """Yield the variables that a kind of settings is read from."""
    for name, field in kind.model_fields.items():
        yield from variables_of_field(name, field, prefix)


def variables_of_field(name: str, field: FieldInfo, prefix: str) -> list[str]:
    """Return the variables that one setting is read from, the usual one first."""
    return [*_aliases(field)] or [f"{prefix}{name.upper()}"]


class _Reader:
    def __init__(self, kind: type[BaseSettings], prefix: str) -> None:
        self._fields = kind.model_fields
        self._prefix = prefix

    def refusal(self, fault: ErrorDetails) -> str:
        """Return the line of a value that breaks a rule."""
        if not fault["loc"]:
            return self._in_variables(_own_words(fault) or fault["msg"])
        name, field = self._field(str(fault["loc"][0]))
        inside = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in _path(fault["loc"][1:]))
        if inside:
            rule = f"{inside.lstrip('.')}: {_own_words(fault) or _lower_first(fault['msg'])}"
        else:
            rule = _own_words(fault) or f"must be {_allowed(field)}"
        return self._line(name, field, rule)

    def unreadable(self, error: pydantic_settings.SettingsError) -> str:
        """Return the line of a value that is not the JSON it has to be."""
        found = _SOURCE_ERROR.search(str(error))
        if found is None:
            return str(error)
        name, field = self._field(found.group(1))
        fault = error.__cause__
        why = f": {fault.msg} at character {fault.pos + 1}" if isinstance(fault, json.JSONDecodeError) else ""
        return self._line(name, field, f"must be {_allowed(field)}, and it is not valid JSON{why}")

    def _line(self, name: str, field: FieldInfo, rule: str) -> str:
        variable = self._variable(name, field)
        return f"{variable}{_shown(name, field, os.environ.get(variable, ''))} {rule}. It sets: {field.description}"

    def _field(self, name: str) -> tuple[str, FieldInfo]:
        """Return a field by its name, or by another name its variable has."""
        for own, field in self._fields.items():
            if name.lower() in {own, *(alias.lower() for alias in _aliases(field))}:
                return own, field
        raise LookupError(name)

    def _variable(self, name: str, field: FieldInfo) -> str:
        """Return the variable the operator wrote, or would have to write."""
        names = variables_of_field(name, field, self._prefix)
        written = {variable.upper(): variable for variable in os.environ}
        return next((written[one.upper()] for one in names if one.upper() in written), names[0])

    def _in_variables(self, text: str) -> str:
        """Return a text about several fields with their variables instead of their names."""

        def variable(word: re.Match[str]) -> str:
            return self._variable(word[0], self._fields[word[0]]) if word[0] in self._fields else word[0]

        return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", variable, text)


def _aliases(field: FieldInfo) -> Iterator[str]:
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    # A name in lower case is the field's own, for those who pass it in Python.
    yield from (choice for choice in choices if isinstance(choice, str) and choice.isupper())


def _shown(name: str, field: FieldInfo, value: str) -> str:
    kinds = (field.annotation, *get_args(field.annotation))
    # A number is none, whatever it is called: seconds of a token.
    if SecretStr in kinds or (is_secret_name(name) and not {int, float, bool} & set(kinds)):
        return ""
    value = _USER_INFO.sub("[hidden]@", value)
    return f'="{value}"' if len(value) <= _LONGEST_VALUE else f'="{value[:_LONGEST_VALUE]}..."'


def _path(location: Sequence[int | str]) -> list[int | str]:
    """Return the part of a location that is a path in JSON: names of members of unions are not."""
    return [part for part in location if isinstance(part, int) or part.isidentifier()] if location else []


def _own_words(fault: ErrorDetails) -> str:
    """Return what our own validators say, or the library about what has no other words here."""
    match fault["type"]:
        case "value_error":
            return str(fault["ctx"]["error"])
        case "missing":
            return "has to be set"
        case "extra_forbidden":
            return "is not a setting"
        case "ip_any_network" | "ip_v4_network" | "ip_v6_network":
            return 'must be a network in the form "10.20.0.0/16"'
        case _:
            return ""


def _allowed(field: FieldInfo) -> str:
    """Return what a setting can be, in words."""
    kinds = [kind for kind in _members(field.annotation) if kind is not type(None)]
    kind = kinds[0]
    origin = get_origin(kind) or kind
    if get_origin(kind) is Literal:
        choices = [f'"{choice}"' if choice else "empty" for choice in get_args(kind)]
        return f"{', '.join(choices[:-1])} or {choices[-1]}"
    if origin is bool:
        return '"true" or "false"'
    if origin in {int, float}:
        return f"{'a whole number' if origin is int else 'a number'}{_bounds(field)}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a JSON object"
    if origin in {list, tuple}:
        return "a JSON list"
    if origin is Path:
        return "a path"
    return f"a text{_lengths(field)}"


def _members(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in {Union, types.UnionType} else [annotation]


def _bounds(field: FieldInfo) -> str:
    limits = {name: getattr(rule, name) for rule in field.metadata for name, _ in _BOUNDS if hasattr(rule, name)}
    if {"ge", "le"} <= limits.keys():
        return f" from {limits['ge']:g} to {limits['le']:g}"
    return "".join(f", {words} {limits[name]:g}" for name, words in _BOUNDS if name in limits)


def _lengths(field: FieldInfo) -> str:
    words = {"min_length": "at least", "max_length": "at most"}
    limits = {name: getattr(rule, name) for rule in field.metadata for name in words if hasattr(rule, name)}
    if len(limits) == len(words):
        return f" of {limits['min_length']} to {limits['max_length']} characters"
    return "".join(f" of {words[name]} {limit} characters" for name, limit in limits.items())


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]

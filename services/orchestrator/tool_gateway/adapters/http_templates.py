"""Fills the arguments of a call into the path, the query and the body of a request.

What a value holds never changes the form of the request: it stays within its path segment, parameter or JSON string.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from services.orchestrator.http_operations import PLACEHOLDER

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SEPARATORS = re.compile(r"[/\\]")
_MISSING = object()


class BadArgument(ValueError):
    """An argument cannot be part of the request; the text says which, and what is wrong, for the model."""


def fill_path(template: str, arguments: Mapping[str, Any]) -> str:
    """Return a path with its arguments, each percent-encoded.

    Raises:
        BadArgument: one is missing, or could lead out of its segment.
    """
    return PLACEHOLDER.sub(lambda found: path_value(found[1], arguments.get(found[1])), template)


def path_value(name: str, value: Any) -> str:
    """Return an argument as part of a path segment.

    Servers and proxies undo the encoding at different times, so what would mean another path then is refused as well.

    Raises:
        BadArgument: see `fill_path`.
    """
    text = scalar_text(name, value)
    check_path_text(name, text)
    return quote(text, safe="")


def check_path_text(name: str, text: str) -> None:
    """Refuse a text that could lead out of its path segment.

    Raises:
        BadArgument: it could.
    """
    if not text:
        raise BadArgument(f"{name} must not be empty: it is part of the address")
    if _CONTROL.search(text):
        raise BadArgument(f"{name} must not hold control characters: it is part of the address")
    if any(step.strip() in (".", "..") for step in _SEPARATORS.split(text)):
        raise BadArgument(f'{name} must not hold "." or ".." as a step: it is part of the address')


def fill_query(template: Mapping[str, str], arguments: Mapping[str, Any]) -> str:
    """Return a query string without its question mark.

    A parameter that is one placeholder and nothing else is left out when its argument is absent or null, and is
    repeated for each item of a list.

    Raises:
        BadArgument: a placeholder within a text has no argument.
    """
    pairs: list[str] = []
    for name, value in template.items():
        whole = PLACEHOLDER.fullmatch(value)
        if whole is None:
            pairs.append(_pair(name, _fill_text(value, arguments)))
            continue
        given = arguments.get(whole[1])
        if given is not None:
            pairs += [_pair(name, plain_text(item)) for item in (given if isinstance(given, list) else [given])]
    return "&".join(pairs)


def fill_body(template: Any, arguments: Mapping[str, Any]) -> Any:
    """Return a JSON value with its arguments. A string that is one placeholder becomes the argument itself, whatever
    its type; a member of an object or list whose argument is absent is left out.

    Raises:
        BadArgument: a placeholder within a text has no argument.
    """
    filled = _filled(template, arguments)
    return None if filled is _MISSING else filled


def _filled(template: Any, arguments: Mapping[str, Any]) -> Any:
    if isinstance(template, str):
        whole = PLACEHOLDER.fullmatch(template)
        return arguments.get(whole[1], _MISSING) if whole else _fill_text(template, arguments)
    if isinstance(template, Mapping):
        members = {name: _filled(value, arguments) for name, value in template.items()}
        return {name: value for name, value in members.items() if value is not _MISSING}
    if isinstance(template, list | tuple):
        return [value for value in (_filled(item, arguments) for item in template) if value is not _MISSING]
    return template


def _fill_text(template: str, arguments: Mapping[str, Any]) -> str:
    def text(found: re.Match[str]) -> str:
        if arguments.get(found[1]) is None:
            raise BadArgument(f"{found[1]} is missing: the request cannot be made without it")
        return plain_text(arguments[found[1]])

    return PLACEHOLDER.sub(text, template)


def scalar_text(name: str, value: Any) -> str:
    """Return a string, number or boolean as text.

    Raises:
        BadArgument: it is missing or of another type.
    """
    if value is None:
        raise BadArgument(f"{name} is missing: the request cannot be made without it")
    if isinstance(value, dict | list):
        raise BadArgument(f"{name} has to be a text, a number or a boolean")
    return plain_text(value)


def plain_text(value: Any) -> str:
    """Return a JSON value as text: a string as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadArgument("an argument holds half of a character: it is not valid Unicode") from None
    return text


def _pair(name: str, value: str) -> str:
    return f"{quote(name, safe='')}={quote(value, safe='')}"

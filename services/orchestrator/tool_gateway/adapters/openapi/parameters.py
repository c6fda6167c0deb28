"""Writes arguments as OpenAPI parameters: where they go, in which style, and encoded so that none leaves its place."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from services.orchestrator.tool_gateway.adapters.http_templates import (
    BadArgument,
    check_path_text,
    plain_text,
)

Binding = Mapping[str, Any]
"""Of an argument, as `compiler` makes it: name, in, style, explode, reserved, json."""

_RESERVED = ":/?@!$'()*,;"
"""What `allowReserved` leaves as it is: not what would end the parameter."""
_HEADER_TEXT = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")
_SEPARATORS = {"spaceDelimited": "%20", "pipeDelimited": "%7C"}


def fill_operation_path(path: str, bindings: Sequence[Binding], arguments: Mapping[str, Any]) -> str:
    """Return a path with its parameters.

    Raises:
        BadArgument: one is missing, or could lead out of its segment.
    """
    by_name = {binding["name"]: binding for binding in bindings if binding["in"] == "path"}

    def value(found: re.Match[str]) -> str:
        binding = by_name[found[1]]
        given = arguments.get(binding["argument"])
        if given is None:
            raise BadArgument(f"{binding['argument']} is missing: the request cannot be made without it")
        return _path_text(binding, given)

    return re.sub(r"\{([^{}/]+)\}", value, path)


def query_pairs(binding: Binding, value: Any) -> list[str]:
    """Return the `name=value` pairs of a query parameter, encoded; none for null and empty lists."""
    encode = _reserving if binding["reserved"] else _encode
    name, style = _encode(binding["name"]), binding["style"]
    if value is None:
        return []
    if binding["json"]:
        return [f"{name}={_encode(_json(value))}"]
    if isinstance(value, dict):
        return _object_pairs(binding, value, encode)
    if not isinstance(value, list):
        return [f"{name}={encode(plain_text(value))}"]
    if not value:
        return []
    texts = [encode(plain_text(item)) for item in value]
    if binding["explode"] and style in ("form", "deepObject"):
        return [f"{name}={text}" for text in texts]
    return [f"{name}={_SEPARATORS.get(style, ',').join(texts)}"]


def header_value(binding: Binding, value: Any) -> str:
    """Return a header parameter's value.

    Raises:
        BadArgument: it holds control characters.
    """
    text = _json(value) if binding["json"] else _simple(value, explode=binding["explode"], encode=str)
    if not _HEADER_TEXT.fullmatch(text):
        raise BadArgument(f"{binding['argument']} must not hold control characters: it is sent as a header")
    return text.strip()


def form_body(value: Any) -> bytes:
    """Return an object as the fields of a form; lists repeat their field.

    Raises:
        BadArgument: it is not an object.
    """
    if not isinstance(value, dict):
        raise BadArgument("the body has to be an object: it is sent as a form")
    pairs = [
        f"{_encode(name)}={_encode(plain_text(item))}"
        for name, given in value.items()
        if given is not None
        for item in (given if isinstance(given, list) else [given])
    ]
    return "&".join(pairs).encode()


def _path_text(binding: Binding, value: Any) -> str:
    argument, style, explode = binding["argument"], binding["style"], binding["explode"]
    text = _json(value) if binding["json"] else _simple(value, explode=explode, encode=str)
    check_path_text(argument, text)
    if binding["json"]:
        return _encode(text)
    if style == "label":
        return "." + _simple(value, explode=explode, encode=_encode, separator="." if explode else ",")
    if style != "matrix":
        return _simple(value, explode=explode, encode=_encode)
    name = _encode(binding["name"])
    if explode and isinstance(value, list):
        return "".join(f";{name}={_encode(plain_text(item))}" for item in value)
    if explode and isinstance(value, dict):
        return "".join(f";{_encode(key)}={_encode(plain_text(item))}" for key, item in value.items())
    return f";{name}={_simple(value, explode=False, encode=_encode)}"


def _simple(value: Any, *, explode: bool, encode: Callable[[str], str], separator: str = ",") -> str:
    if isinstance(value, list):
        return separator.join(encode(plain_text(item)) for item in value)
    if isinstance(value, dict):
        link = "=" if explode else separator
        return separator.join(f"{encode(name)}{link}{encode(plain_text(item))}" for name, item in value.items())
    return encode(plain_text(value))


def _object_pairs(binding: Binding, value: Mapping[str, Any], encode: Callable[[str], str]) -> list[str]:
    name = _encode(binding["name"])
    if binding["style"] == "deepObject":
        return _deep_pairs(name, value, encode)
    if binding["explode"]:
        return [f"{_encode(key)}={encode(plain_text(item))}" for key, item in value.items() if item is not None]
    separator = _SEPARATORS.get(binding["style"], ",")
    texts = [encode(text) for key, item in value.items() for text in (key, plain_text(item))]
    return [f"{name}={separator.join(texts)}"] if texts else []


def _deep_pairs(name: str, value: Any, encode: Callable[[str], str]) -> list[str]:
    if isinstance(value, dict):
        return [
            pair for key, item in value.items() for pair in _deep_pairs(f"{name}%5B{_encode(key)}%5D", item, encode)
        ]
    if isinstance(value, list):
        return [pair for item in value for pair in _deep_pairs(name, item, encode)]
    return [] if value is None else [f"{name}={encode(plain_text(value))}"]


def _encode(text: str) -> str:
    return quote(text, safe="")


def _reserving(text: str) -> str:
    return quote(text, safe=_RESERVED)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

"""Texts of models, tools and sources, made fit to be sent and stored."""

import re
from typing import Any

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_HALF = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """Return the text with U+FFFD for what no database and no message holds.

    That is U+0000, which PostgreSQL cannot store, and lone surrogates, for which UTF-8, and with it protobuf, has no
    bytes.
    """
    text = text.replace("\0", _REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        return _HALF.sub(_REPLACEMENT, text)
    return text


def storable_json(value: Any) -> Any:
    """Return a JSON value with all its texts made storable."""
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable(key): storable_json(item) for key, item in value.items()}
        case list() | tuple():
            return [storable_json(item) for item in value]
        case _:
            return value

"""What sources say, made safe to keep: bounded, without characters that hide or cannot be stored, and valid JSON."""

import json
import math
import re
from typing import Any, NoReturn

MAX_JSON_BYTES = 1024 * 1024
MAX_SCHEMA_BYTES = 256 * 1024
_MAX_DEPTH = 64
# Controls but tab and line breaks, characters of direction and width that hide text, and halves of surrogate pairs.
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\ufffd"


class ForeignTextError(ValueError):
    """What a source sent cannot be used; the text says why, with nothing of the content in it."""


def storable(text: str) -> str:
    """Return a text without U+0000 and lone surrogates, which neither UTF-8 nor PostgreSQL holds."""
    return _UNSTORABLE.sub(_REPLACEMENT, text)


def shown(text: str, max_bytes: int) -> str:
    """Return a text for people: without hidden characters, and no longer than `max_bytes` in UTF-8."""
    # A character has at most four bytes: what is cut here cannot be needed.
    data = storable(_HIDDEN.sub("", text[:max_bytes])).encode()
    return data[:max_bytes].decode(errors="ignore")


def parse_json(text: str, what: str, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the value of a JSON text whose strings can be stored.

    Raises:
        ForeignTextError: it is too large or too deep, or not JSON, or holds a number that no JSON text can hold.
    """
    if len(text) > max_bytes:
        raise ForeignTextError(f"{what} is larger than {max_bytes} bytes")
    try:
        return _checked(json.loads(text, parse_constant=_refuse_constant), what, 0)
    except ForeignTextError:
        raise
    except RecursionError:
        raise _too_deep(what) from None
    except ValueError:
        # The library's text may quote what was sent.
        raise ForeignTextError(f"{what} is not valid JSON") from None


def parse_object(text: str, what: str, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the object of a JSON text.

    Raises:
        ForeignTextError: it is another value, or see `parse_json`.
    """
    value = parse_json(text, what, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise ForeignTextError(f"{what} is not a JSON object")
    return value


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("not a number of JSON")


def _checked(value: Any, what: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise _too_deep(what)
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(key): _checked(item, what, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_checked(item, what, depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ForeignTextError(f"{what} holds a number that is too large")
    return value


def _too_deep(what: str) -> ForeignTextError:
    return ForeignTextError(f"{what} is nested deeper than {_MAX_DEPTH} levels")

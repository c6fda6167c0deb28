"""Values of columns, however an interface or another program has written them.

The `read_` functions never raise: they return what can be made of a value, and a default where nothing can be.
"""

import functools
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from services.memory.domain.metadata import canonical_json
from services.memory.domain.records import Relationship
from services.memory.domain.vectors import Vector
from services.memory.rows.columns import Column

_MAX_COMPONENTS = 8192
_MAX_DEPTH = 32
"""Levels of a JSON document: messages hold fewer than 100."""
_MAX_OBJECT_LENGTH = 131_072
"""Characters of JSON text: as a message it can take eight times as much."""
_MAX_FLOAT32: Final = float(np.finfo(np.float32).max)
_TRUE = frozenset({"true", "t", "yes", "y", "1"})
_RELATION_KEYS = ("relation", "type", "relationship", "predicate")
_TARGET_KEYS = ("target", "entity", Column.ENTITY_NAME, "object", "name")
_RELATED = "related_to"
"""The relation of an edge that names its target alone."""


@functools.lru_cache(64)
def format_time(moment: datetime) -> str:
    """Return a moment in UTC as text that sorts by time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(value: object) -> datetime:
    """Read a moment: a `datetime`, ISO 8601 text, or a number of seconds or milliseconds since 1970.

    Raises:
        ValueError, OverflowError, OSError: it is none, or lies outside the years 1 to 9999.
    """
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Seconds reach this bound in the year 5138, milliseconds passed it in 1973.
        return datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC)
    raise ValueError(f"{type(value).__name__} is not a time")


def read_time(value: object) -> datetime | None:
    """Return a moment, or None."""
    if value is None or value == "":
        return None
    try:
        return parse_time(value)
    except (ValueError, OverflowError, OSError):
        return None


def read_text(value: object) -> str:
    """Return a value as text, without what no message can hold; nothing is an empty text."""
    if isinstance(value, str):
        return value if value.isascii() else _encodable(value)
    if value is None:
        return ""
    if isinstance(value, datetime):
        return format_time(value)
    try:
        return _encodable(canonical_json(value))
    except (TypeError, ValueError, RecursionError):
        return ""


def is_encodable(text: str) -> bool:
    """Return whether a message can hold a text: JSON can have half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encodable(text: str) -> str:
    return text if is_encodable(text) else text.encode(errors="replace").decode()


def parse_boolean(value: object) -> bool:
    """Return a truth value, which some interfaces send as text."""
    if isinstance(value, str):
        return value.strip().lower() in _TRUE
    return bool(value) if isinstance(value, bool | int | float) else False


def read_integer(value: object, *, bits: int) -> int:
    """Return a whole number that fits in so many bits, or 0."""
    number = value if isinstance(value, int) and not isinstance(value, bool) else _number(value)
    whole = 0 if number is None else int(number)
    return whole if -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1) else 0


def read_float(value: object) -> float:
    """Return a number of single precision, or 0."""
    number = value if isinstance(value, float) else _number(value)
    return number if number is not None and abs(number) <= _MAX_FLOAT32 else 0.0


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def parse_list(value: object) -> tuple[str, ...]:
    """Return a list of texts: an array, a JSON list, or texts with commas in between."""
    if value is None or value in ("", "[]"):
        return ()
    items = value
    if isinstance(value, str):
        items = read_json(value)
        if items is None:
            items = [part for part in map(str.strip, value.split(",")) if part]
    if isinstance(items, str):
        items = [items]
    if not isinstance(items, list | tuple):
        return ()
    return tuple(read_text(item) for item in items if item is not None)


def read_json(value: object) -> Any:
    """Return the value of JSON text, None where it is not JSON, or nested deeper than messages can be."""
    if not isinstance(value, str):
        return value if isinstance(value, dict | list) and _shallow(value) else None
    try:
        document, end = _DECODER.raw_decode(value) if value.startswith(_OPENING) else (None, -1)
        if end != len(value):
            # White space is around it, which texts of this service never have: it takes longer to look for that.
            document = _DECODER.decode(value)
    except (ValueError, RecursionError):
        return None
    # So few brackets cannot nest too deep.
    return document if value.count("{") + value.count("[") <= _MAX_DEPTH or _shallow(document) else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Made once, as `json.loads` would make it for every call.
_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_OPENING: Final = ("{", "[")


def _shallow(document: object) -> bool:
    level = [document]
    # The columns wrap what clients may nest this deep into objects of their own.
    for _ in range(_MAX_DEPTH + 2):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return True
        level = inner
    return False


def read_object(value: object) -> str:
    """Return a JSON object as canonical text; "{}" for what is none, or too large for a message."""
    if not isinstance(value, dict) or not value:
        return "{}"
    try:
        text = _encodable(canonical_json(value))
    except (TypeError, ValueError, RecursionError):
        return "{}"
    return text if len(text) <= _MAX_OBJECT_LENGTH else "{}"


def read_relationships(value: object) -> tuple[Relationship, ...]:
    """Return edges to other entities: pairs, objects with a relation and a target, or names of targets alone."""
    items = value if isinstance(value, list | tuple) else ()
    edges = (_edge(item) for item in items)
    return tuple(edge for edge in edges if edge is not None)


def _edge(item: object) -> Relationship | None:
    relation, target = "", ""
    if isinstance(item, str):
        relation, target = _RELATED, read_text(item)
    elif isinstance(item, list | tuple) and len(item) == 2:
        relation, target = read_text(item[0]), read_text(item[1])
    elif isinstance(item, Mapping):
        relation, target = _first(item, _RELATION_KEYS) or _RELATED, _first(item, _TARGET_KEYS)
    return Relationship(relation, target) if relation and target else None


def _first(item: Mapping[Any, Any], names: tuple[str, ...]) -> str:
    return next((read_text(item[name]) for name in names if item.get(name)), "")


def read_vector(value: object) -> Vector | None:
    """Return a vector of single precision, or None."""
    try:
        if isinstance(value, bytes | memoryview | bytearray):
            vector = np.frombuffer(value, dtype="<f4")
        elif isinstance(value, list | tuple | np.ndarray):
            with np.errstate(over="ignore"):
                vector = np.asarray(value, dtype=np.float32)
        else:
            return None
    except (ValueError, TypeError, OverflowError):
        return None
    usable = vector.ndim == 1 and 0 < vector.size <= _MAX_COMPONENTS and bool(np.isfinite(vector).all())
    return vector if usable else None

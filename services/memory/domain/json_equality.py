"""When two JSON values are the same value, however they are written."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import starmap


def json_equal(one: object, other: object) -> bool:
    """Return whether two values parsed from JSON are equal at every depth.

    Numbers are equal when they are the same double, as clients of the API cannot send any others: 1, 1.0 and 1e0 are
    one number. A truth value or a text is never equal to a number, and the order of an object's keys does not matter.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float):
        return isinstance(other, int | float) and (one == other or _double(one) == _double(other))
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(json_equal(value, other[name]) for name, value in one.items())
        )
    if isinstance(one, Sequence) and not isinstance(one, str):
        return (
            isinstance(other, Sequence)
            and not isinstance(other, str)
            and len(one) == len(other)
            and all(starmap(json_equal, zip(one, other, strict=True)))
        )
    return type(one) is type(other) and one == other


def json_key(value: object) -> Hashable:
    """Return what is the same for two values parsed from JSON where `json_equal` holds for them, and only there."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, bool):
        return bool, value
    if isinstance(value, int | float):
        return float, _double(value)
    if isinstance(value, Mapping):
        return dict, frozenset((name, json_key(inner)) for name, inner in value.items())
    if isinstance(value, Sequence):
        return list, tuple(map(json_key, value))
    raise TypeError(f"{type(value).__name__} is not of JSON")


def holds_number(value: object) -> bool:
    """Return whether a value parsed from JSON is a number or contains one, which texts may write in several ways."""
    if isinstance(value, Mapping):
        return any(map(holds_number, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(map(holds_number, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _double(number: float) -> float:
    """Return the double nearest to a number; a whole number beyond the range of doubles stays itself."""
    try:
        return float(number)
    except OverflowError:
        return number

"""Values and operators of expressions, strictly as CEL has them.

In Python a truth value is a number and a number of one type is not equal to one of another; the library that evaluates
expressions follows it in places: true was 1, null was 0.0, and 100 was not less than 100.5.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from celpy import celtypes as cel
from celpy.evaluation import CELEvalError, base_functions

_INT64 = range(-(2**63), 2**63)
_NUMBERS = (cel.IntType, cel.UintType, cel.DoubleType)
_ORDERED = (cel.StringType, cel.BytesType, cel.TimestampType, cel.DurationType)
_SIZED = (cel.StringType, cel.BytesType, cel.ListType, cel.MapType)
_CONVERTED = {
    # By the types that CEL converts.
    "bool": (cel.BoolType, cel.StringType),
    "double": (*_NUMBERS, cel.StringType),
    "int": (*_NUMBERS, cel.StringType, cel.TimestampType),
    "uint": (*_NUMBERS, cel.StringType),
    "string": (*_NUMBERS, *_ORDERED),
}


class NoValue(ValueError):
    """What is given is no value of JSON."""


def value_of(given: Any) -> Any:
    """Return a value of JSON as expressions have it; whole numbers that no integer of CEL holds are doubles.

    Raises:
        NoValue: it holds what is no JSON, or a number that is not finite.
        RecursionError: it is too deep.
    """
    match given:
        case None:
            return None
        case bool():
            return cel.BoolType(given)
        case int() if given in _INT64:
            return cel.IntType(given)
        case int() | float():
            return cel.DoubleType(_finite(given))
        case str():
            return cel.StringType(given)
        case Mapping():
            return cel.MapType({cel.StringType(name): value_of(value) for name, value in given.items()})
        case list() | tuple():
            return cel.ListType([value_of(value) for value in given])
    raise NoValue(f"{type(given).__name__} is no value of JSON")


def _finite(number: float) -> float:
    try:
        found = float(number)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise NoValue("a number is not finite")
    return found


def equal(left: Any, right: Any) -> bool:
    """Return whether two values are equal, which null and another value never are.

    Raises:
        TypeError: their types cannot be compared.
    """
    if left is None or right is None:
        return left is right
    if isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS):
        return _plain(left) == _plain(right)
    if isinstance(left, cel.ListType) and isinstance(right, cel.ListType):
        return len(left) == len(right) and all(equal(one, other) for one, other in zip(left, right, strict=True))
    if isinstance(left, cel.MapType) and isinstance(right, cel.MapType):
        # In one order, whichever side a value stands on.
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in sorted(left, key=str))
    if isinstance(left, type) and isinstance(right, type):
        return left is right
    if type(left) is not type(right):
        raise TypeError("no such overload")
    return bool(left == right)


def _plain(number: Any) -> int | float:
    # Python compares numbers of both types exactly.
    return float(number) if isinstance(number, cel.DoubleType) else int(number)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    def compared(left: Any, right: Any) -> bool:
        if isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS):
            return compare(_plain(left), _plain(right))
        if type(left) is not type(right) or not isinstance(left, (*_ORDERED, cel.BoolType)):
            raise TypeError("no such overload")
        return compare(left, right)

    return _operator(compared)


def _operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operator that passes on what went wrong before it, and whose truth values are CEL's."""

    def applied(*operands: Any) -> Any:
        for operand in operands:
            if isinstance(operand, CELEvalError):
                return operand
        found = function(*operands)
        return cel.BoolType(found) if isinstance(found, bool) else found

    return applied


def _of_no_truth(name: str) -> Callable[..., Any]:
    """Return an operator of arithmetic, which takes neither truth values nor null."""
    function: Callable[..., Any] = base_functions[name]

    def applied(*operands: Any) -> Any:
        if any(operand is None or isinstance(operand, cel.BoolType) for operand in operands):
            raise TypeError("no such overload")
        return function(*operands)

    return _operator(applied)


def _contained(item: Any, container: Any) -> bool:
    if not isinstance(container, cel.ListType | cel.MapType):
        raise TypeError("no such overload")
    mismatched = False
    for member in container:
        try:
            if equal(item, member):
                return True
        except TypeError:
            mismatched = True
    if mismatched:
        raise TypeError("no such overload")
    return False


def _item(container: Any, key: Any) -> Any:
    if isinstance(container, cel.ListType):
        if isinstance(key, cel.BoolType):
            raise TypeError("no such overload")
        if isinstance(key, cel.IntType) and key < 0:
            # Python would count from the end.
            raise IndexError("invalid_argument: index out of range")
        return base_functions["_[_]"](container, key)
    if isinstance(container, cel.MapType) and not isinstance(key, cel.StringType):
        for known in container:
            if type(known) is type(key) and known == key:
                return container[known]
        raise KeyError(key)
    if not isinstance(container, cel.MapType):
        raise TypeError("no such overload")
    return base_functions["_[_]"](container, key)


def _size(given: Any) -> Any:
    if not isinstance(given, _SIZED):
        raise TypeError("no such overload")
    return cel.IntType(len(given))


def _conversion(name: str) -> Callable[..., Any]:
    convert: Callable[..., Any] = base_functions[name]

    def converted(*given: Any) -> Any:
        if len(given) != 1 or not isinstance(given[0], _CONVERTED[name]):
            raise TypeError("no such overload")
        if isinstance(given[0], cel.BoolType) and name != "bool":
            raise TypeError("no such overload")
        return convert(given[0])

    return converted


def _text(given: Any) -> Any:
    if isinstance(given, cel.BoolType):
        return cel.StringType("true" if given else "false")
    return _conversion("string")(given)


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "_==_": _operator(equal),
    "_!=_": _operator(lambda left, right: not equal(left, right)),
    "_<_": _ordered(lambda left, right: bool(left < right)),
    "_<=_": _ordered(lambda left, right: bool(left <= right)),
    "_>_": _ordered(lambda left, right: bool(left > right)),
    "_>=_": _ordered(lambda left, right: bool(left >= right)),
    "_in_": _operator(_contained),
    "_[_]": _operator(_item),
    "size": _operator(_size),
    **{name: _of_no_truth(name) for name in ("-_", "_+_", "_-_", "_*_", "_/_", "_%_")},
}
CONVERSIONS: Mapping[str, Callable[..., Any]] = {
    **{name: _conversion(name) for name in ("bool", "double", "int", "uint")},
    "string": _text,
}
"""By name. Apart from the operators, since the names of types are values as well."""

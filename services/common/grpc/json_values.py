"""`google.protobuf.Value` to plain JSON values and back."""

import json
import math
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format, struct_pb2

from services.common.errors import InvalidArgument

# Beyond this, floating point numbers cannot represent every whole number.
_EXACT = 2**53
_EXACT_DIGITS = len(str(-_EXACT))


def from_value(path: str, value: struct_pb2.Value, *, exact: bool = False) -> Any:
    """Return a JSON value; whole numbers become int, as JSON knows no other numbers than Value's floating point.

    Raises:
        InvalidArgument: a number is not finite or, with `exact`, a whole number so large that it may have been rounded;
            the violation's field begins with `path`.
    """
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        if not math.isfinite(number):
            raise InvalidArgument.field(path, "must be a finite number")
        if not number.is_integer():
            return number
        if exact and abs(number) > _EXACT:
            raise InvalidArgument.field(
                path, "is a whole number beyond 2^53, which may have been rounded; send it as text"
            )
        return int(number) if abs(number) <= _EXACT else number
    if kind == "struct_value":
        return from_struct(path, value.struct_value, exact=exact)
    if kind == "list_value":
        items = enumerate(value.list_value.values)
        return [from_value(f"{path}[{index}]", item, exact=exact) for index, item in items]
    return getattr(value, kind) if kind in {"string_value", "bool_value"} else None


def from_struct(path: str, struct: struct_pb2.Struct, *, exact: bool = False) -> dict[str, Any]:
    """Return a JSON object; see `from_value`."""
    return {key: from_value(f"{path}.{key}", item, exact=exact) for key, item in struct.fields.items()}


def to_struct(document: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return the Struct of a JSON object."""
    struct = struct_pb2.Struct()
    struct.update(document)
    return struct


def to_value(item: Any) -> struct_pb2.Value:
    """Return the Value of a JSON value."""
    return json_format.ParseDict(item, struct_pb2.Value())


def parse_exact(text: str) -> Any:
    """Return the value of JSON text as `to_struct` and `to_value` can carry it without rounding.

    Whole numbers beyond 2^53 become text, and so do NaN and the infinities, which Python's encoder writes.
    """
    return json.loads(text, parse_int=_exact_int, parse_float=_exact_float, parse_constant=str)


def _exact_int(text: str) -> int | str:
    # Thousands of digits are not worth parsing, and Python refuses to.
    return int(text) if len(text) <= _EXACT_DIGITS and abs(int(text)) <= _EXACT else text


def _exact_float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) and (not number.is_integer() or abs(number) <= _EXACT) else text

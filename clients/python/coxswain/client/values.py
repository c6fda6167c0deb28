"""Python values as the protobuf values that inputs are made of."""

import math
from collections.abc import Mapping, Sequence

from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value


def to_value(value: object, path: str = "value") -> Value:
    """The protobuf value of text, number, bool, None, or sequences and mappings of them.

    Raises TypeError for anything else, and ValueError for a number that a double cannot hold as it is; both name the
    path.
    """
    match value:
        case None:
            return Value(null_value=NullValue.NULL_VALUE)
        case bool():
            return Value(bool_value=value)
        case str():
            return Value(string_value=value)
        case int() | float():
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if not math.isfinite(number):
                raise ValueError(f"{path}: not a finite number that a double can hold")
            if number != value:
                raise ValueError(f'{path}: {value} would be rounded to {number:.0f}; give it as text, "{value}"')
            return Value(number_value=number)
        case Mapping():
            struct = Struct()
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{path}: key {key!r} must be text")
                struct.fields[key].CopyFrom(to_value(item, f"{path}.{key}"))
            return Value(struct_value=struct)
        case bytes() | bytearray():
            raise TypeError(f"{path}: bytes cannot be sent; decode them to text")
        case Sequence():
            items = [to_value(item, f"{path}[{index}]") for index, item in enumerate(value)]
            return Value(list_value=ListValue(values=items))
    raise TypeError(f"{path}: {type(value).__name__} cannot be sent; use text, numbers, bool, None, lists or mappings")

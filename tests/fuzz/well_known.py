"""Messages of google.protobuf that are not filled field by field: times, masks, JSON."""

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf import duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

_ODD_NANOS = (0, -1, 2**31 - 1)
# The year 0, the year 10,000, and what no calendar has.
_ODD_TIMES = (-62_135_596_801, 253_402_300_800, 2**63 - 1, -(2**63), 0)
_TIMES = (1_700_000_000, 4_000_000_000)
_ODD_SECONDS = (-1, -(2**63), 2**63 - 1, 315_576_000_001, 0)
_SECONDS = (1, 60, 3_600, 86_400 * 30)
_ODD_MASKS: tuple[Sequence[str], ...] = (
    [],
    ["*"],
    [""],
    ["."],
    ["a.b.c.d"],
    ["name", "name"],
    ["id"],
    ["x" * 70_000],
    ["name"] * 10_000,
    ["nAme", "spec..name"],
)
_OBJECTS: tuple[dict[str, Any], ...] = (
    {},
    {"text": "Words."},
    {"type": "object", "properties": {"a": {"type": "string"}}},
    {"a": [1, None, True]},
)


def fill_well_known(message: Message, request: Descriptor, rng: random.Random, *, bad: bool) -> bool:
    """Fill a message with good or bad values; return whether it is one of these. Masks name fields of `request`."""
    match message:
        case timestamp_pb2.Timestamp():
            message.seconds = rng.choice(_ODD_TIMES if bad else _TIMES)
            message.nanos = rng.choice(_ODD_NANOS) if bad else 0
        case duration_pb2.Duration():
            message.seconds = rng.choice(_ODD_SECONDS if bad else _SECONDS)
            message.nanos = rng.choice(_ODD_NANOS) if bad else 0
        case field_mask_pb2.FieldMask():
            message.paths.extend(rng.choice(_ODD_MASKS) if bad else _mask(request, rng))
        case struct_pb2.Struct():
            message.CopyFrom(_odd_object(rng) if bad else _object(rng))
        case struct_pb2.Value():
            message.struct_value.CopyFrom(_odd_object(rng) if bad else _object(rng))
        case _:
            return False
    return True


def _mask(request: Descriptor, rng: random.Random) -> Sequence[str]:
    inner = [field.message_type for field in request.fields if field.message_type is not None]
    names = [field.name for kind in inner if not kind.full_name.startswith("google.") for field in kind.fields]
    return rng.sample(names, min(len(names), rng.choice((1, 2, 5)))) or ["name"]


def _object(rng: random.Random) -> struct_pb2.Struct:
    return ParseDict(rng.choice(_OBJECTS), struct_pb2.Struct())


def _odd_object(rng: random.Random) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    match rng.randrange(6):
        case 0:
            _nest(struct, rng.choice((5, 15, 22)))
        case 1:
            struct.fields["n"].number_value = rng.choice((float("nan"), float("inf"), 1e308, 2.0**63, -0.0))
        case 2:
            struct.fields["k" * 9_000].bool_value = True
        case 3:
            struct.fields["a\0b"].string_value = "x"
        case 4:
            # A value of no kind.
            struct.fields["none"].SetInParent()
            struct.fields["$ref"].string_value = "#/$defs/a"
        case _:
            struct.fields["list"].list_value.values.extend([struct_pb2.Value(number_value=1)] * 20_000)
    return struct


def _nest(struct: struct_pb2.Struct, depth: int) -> None:
    """Nest objects and lists in turn; what is deeper than messages may be is made as bytes, see `wire`."""
    for level in range(depth):
        if level % 2:
            struct = struct.fields["a"].struct_value
        else:
            struct = struct.fields["a"].list_value.values.add().struct_value
    struct.fields["a"].null_value = struct_pb2.NULL_VALUE

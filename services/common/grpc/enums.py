"""Our enums and those of the protos: members have the values' names without their common prefix."""

import functools
import re
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.descriptor import EnumDescriptor

from services.common.errors import InvalidArgument

if TYPE_CHECKING:
    # What generated stubs are typed by.
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

E = TypeVar("E", bound=Enum)
V = TypeVar("V", bound=int)

_BEFORE_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def enum_from_proto(kind: type[E], proto_enum: "_EnumTypeWrapper[Any]", number: int) -> E:
    """Return the member that a proto's value stands for.

    Raises:
        InvalidArgument: `kind` has no such member; rules of the protos refuse such values before, by their field.
    """
    member: E | None = _members(kind, proto_enum.DESCRIPTOR).get(number)
    if member is None:
        allowed = ", ".join(f"{_prefix(proto_enum.DESCRIPTOR)}{member.name}" for member in kind)
        raise InvalidArgument(f"{number} is not a value that can be used here; choose one of {allowed}")
    return member


def enum_to_proto(proto_enum: "_EnumTypeWrapper[V]", member: Enum) -> V:
    """Return the proto's value of a member. Raises ValueError when the proto has none of that name."""
    number: V = _number(proto_enum, member)
    return number


@functools.cache
def _number(proto_enum: "_EnumTypeWrapper[Any]", member: Enum) -> Any:
    return proto_enum.Value(_prefix(proto_enum.DESCRIPTOR) + member.name)


@functools.cache
def _members(kind: type[E], proto_enum: EnumDescriptor) -> dict[int, E]:
    prefix = _prefix(proto_enum)
    numbers = {value.name.removeprefix(prefix): value.number for value in proto_enum.values}
    return {numbers[member.name]: member for member in kind if member.name in numbers}


@functools.cache
def _prefix(proto_enum: EnumDescriptor) -> str:
    """Return what the names of all its values begin with: ExecutionState gives `EXECUTION_STATE_`."""
    return f"{_BEFORE_CAPITAL.sub('_', proto_enum.name).upper()}_"

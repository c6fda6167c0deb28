"""Conditions on columns as messages."""

from collections.abc import Sequence
from typing import Final

from coxswain.memory.v1 import record_pb2
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto
from services.common.grpc.times import timestamp_from_proto
from services.memory import filters
from services.memory.domain.filters import Comparison, Condition, Scalar
from services.memory.domain.records import MemoryKind

MAX_VALUES: Final = 10_000
"""Of the conditions of a request, and of its expression: a third each of the parameters that a statement takes on any
of the databases.
"""


def conditions_from_proto(
    messages: Sequence[record_pb2.Condition], kind: MemoryKind, path: str
) -> tuple[Condition, ...]:
    """Return the conditions, checked against the kind's schema.

    Raises:
        InvalidArgument: one does not fit it, or they are more than a statement can hold.
    """
    if sum(len(message.values) for message in messages) > MAX_VALUES:
        raise InvalidArgument.field(path, f"have more than {MAX_VALUES:,} values in all; split the call")
    return tuple(condition_from_proto(message, kind, f"{path}[{index}]") for index, message in enumerate(messages))


def condition_from_proto(message: record_pb2.Condition, kind: MemoryKind, path: str) -> Condition:
    """Return one condition, checked against the kind's schema.

    Raises:
        InvalidArgument: it does not fit it.
    """
    return filters.check_condition(
        kind,
        message.column,
        _comparison(message.operator),
        [_scalar(value, f"{path}.values[{at}]") for at, value in enumerate(message.values)],
        path,
    )


def _comparison(number: int) -> Comparison:
    return enum_from_proto(Comparison, record_pb2.ComparisonOperator, number) if number else Comparison.EQUAL


def _scalar(message: record_pb2.ConditionValue, path: str) -> Scalar:
    if message.WhichOneof("value") == "time":
        return timestamp_from_proto(message.time, f"{path}.time")
    value: Scalar = getattr(message, message.WhichOneof("value") or "text")
    return value

"""Filters, conditions and rankings as messages."""

from collections.abc import Sequence

from coxswain.memory.v1 import memory_pb2, record_pb2
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto
from services.common.grpc.json_values import from_value
from services.common.grpc.times import optional_timestamp_from_proto, timestamp_from_proto
from services.memory import filters
from services.memory.domain.filters import Comparison, Condition, Filter, Scalar
from services.memory.domain.records import MemoryKind
from services.memory.domain.scopes import normalise_scope
from services.memory.domain.searches import Ranking
from services.memory.rows import canonical_json

_DEFAULT_HALF_LIFE_DAYS = 30.0
_MAX_VALUES = 10_000
"""A third of the parameters that a statement takes on any of the databases."""


def filter_from_proto(message: memory_pb2.RecordFilter, kind: MemoryKind) -> Filter:
    """Return the filter of a message, checked against the kind's schema.

    Raises:
        InvalidArgument: a part of it does not fit the kind.
    """
    if kind is not MemoryKind.UNIFIED:
        for name in ("scope_prefix", "categories", "source", "include_private"):
            if getattr(message, name):
                raise InvalidArgument.field(f"filter.{name}", f"{kind.name} records have none")
    return Filter(
        conditions=conditions_from_proto(message.conditions, kind, "filter.conditions"),
        scope_prefix=normalise_scope(message.scope_prefix) if message.scope_prefix else "",
        categories=frozenset(message.categories),
        metadata={
            name: canonical_json(from_value(f'filter.metadata["{name}"]', value))
            for name, value in message.metadata.items()
        },
        created_before=optional_timestamp_from_proto(message, "created_before", "filter"),
        source=message.source,
        include_private=message.include_private,
    )


def conditions_from_proto(
    messages: Sequence[record_pb2.Condition], kind: MemoryKind, path: str
) -> tuple[Condition, ...]:
    """Return the conditions, checked against the kind's schema.

    Raises:
        InvalidArgument: one does not fit it, or they are more than a statement can hold.
    """
    if sum(len(message.values) for message in messages) > _MAX_VALUES:
        raise InvalidArgument.field(path, f"have more than {_MAX_VALUES:,} values in all; split the call")
    return tuple(
        filters.check_condition(
            kind,
            message.column,
            _comparison(message.operator),
            [_scalar(value, f"{path}[{index}].values[{at}]") for at, value in enumerate(message.values)],
            f"{path}[{index}]",
        )
        for index, message in enumerate(messages)
    )


def _comparison(number: int) -> Comparison:
    return enum_from_proto(Comparison, record_pb2.ComparisonOperator, number) if number else Comparison.EQUAL


def _scalar(message: record_pb2.ConditionValue, path: str) -> Scalar:
    if message.WhichOneof("value") == "time":
        return timestamp_from_proto(message.time, f"{path}.time")
    value: Scalar = getattr(message, message.WhichOneof("value") or "text")
    return value


def ranking_from_proto(message: memory_pb2.Ranking) -> Ranking:
    """Return the weights.

    Raises:
        InvalidArgument: they sum to nothing, or one is not finite.
    """
    weights = (message.semantic_weight, message.recency_weight, message.importance_weight)
    if not 0 < sum(weights) < float("inf"):
        raise InvalidArgument.field("ranking", "at least one weight has to be above 0, and all of them finite")
    half_life = message.recency_half_life_days or _DEFAULT_HALF_LIFE_DAYS
    return Ranking(*weights, half_life_days=half_life)

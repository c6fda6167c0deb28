"""Filter expressions as messages."""

from collections.abc import Sequence
from typing import Any

from coxswain.memory.v1 import filter_expression_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto
from services.common.grpc.json_values import from_value
from services.memory.domain.filters import AllOf, AnyOf, Expression, MetadataComparison, MetadataCondition, Not
from services.memory.domain.records import MemoryKind
from services.memory.servicers.messages.conditions import MAX_VALUES, condition_from_proto

_MAX_DEPTH = 8
_MAX_PARTS = 256

_SEVERAL = frozenset({MetadataComparison.EQUAL, MetadataComparison.NOT_EQUAL, MetadataComparison.CONTAINS})


def expression_from_proto(message: pb.FilterExpression, kind: MemoryKind, path: str) -> Expression:
    """Return the expression, checked against the kind's schema; `path` is its path in the request.

    Raises:
        InvalidArgument: a part does not fit the kind, or it is too deep or too large. The violation names the part.
    """
    return _Reader(kind, path).read(message, path, 1)


class _Reader:
    """Reads one expression, counting what all its parts hold together."""

    def __init__(self, kind: MemoryKind, path: str) -> None:
        self._kind = kind
        self._path = path
        self._parts = 0
        self._values = 0

    def read(self, message: pb.FilterExpression, path: str, depth: int) -> Expression:
        """Return one part and all below it."""
        if depth > _MAX_DEPTH:
            raise InvalidArgument.field(path, f"is nested more than {_MAX_DEPTH} levels deep; split the call")
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidArgument.field(self._path, f"has more than {_MAX_PARTS} parts; split the call")
        match message.WhichOneof("expression"):
            case "all_of":
                return AllOf(self._read_all(message.all_of.expressions, f"{path}.all_of.expressions", depth))
            case "any_of":
                return AnyOf(self._read_all(message.any_of.expressions, f"{path}.any_of.expressions", depth))
            case "negated":
                return Not(self.read(message.negated, f"{path}.negated", depth + 1))
            case "condition":
                self._count_values(len(message.condition.values))
                return condition_from_proto(message.condition, self._kind, f"{path}.condition")
            case "metadata":
                self._count_values(len(message.metadata.values))
                return _metadata_condition(message.metadata, f"{path}.metadata")
            case _:
                raise InvalidArgument.field(path, "has none of all_of, any_of, negated, condition and metadata")

    def _read_all(self, messages: Sequence[pb.FilterExpression], path: str, depth: int) -> tuple[Expression, ...]:
        return tuple(self.read(message, f"{path}[{index}]", depth + 1) for index, message in enumerate(messages))

    def _count_values(self, count: int) -> None:
        self._values += count
        if self._values > MAX_VALUES:
            raise InvalidArgument.field(self._path, f"has more than {MAX_VALUES:,} values in all; split the call")


def _metadata_condition(message: pb.MetadataCondition, path: str) -> MetadataCondition:
    comparison = (
        enum_from_proto(MetadataComparison, pb.MetadataOperator, message.operator)
        if message.operator
        else MetadataComparison.EQUAL
    )
    values = tuple(from_value(f"{path}.values[{at}]", value) for at, value in enumerate(message.values))
    _check_values(comparison, values, path)
    return MetadataCondition(tuple(message.path), comparison, values)


def _check_values(comparison: MetadataComparison, values: Sequence[Any], path: str) -> None:
    if comparison is MetadataComparison.EXISTS:
        if values:
            raise InvalidArgument.field(f"{path}.values", "EXISTS takes none; leave it empty")
        return
    if not values:
        raise InvalidArgument.field(f"{path}.values", f"is empty; {comparison} needs a value to compare with")
    if comparison in _SEVERAL:
        return
    if len(values) > 1:
        raise InvalidArgument.field(
            f"{path}.values", "more than one value makes sense for EQUAL, NOT_EQUAL and CONTAINS only"
        )
    if isinstance(values[0], bool) or not isinstance(values[0], str | int | float):
        raise InvalidArgument.field(f"{path}.values[0]", f"{comparison} compares numbers or texts; send one of these")

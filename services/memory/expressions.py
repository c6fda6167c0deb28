"""The meaning of filter expressions, and what can be said of one before it is evaluated."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from services.memory.domain.filters import (
    AllOf,
    AnyOf,
    Comparison,
    Condition,
    Expression,
    MetadataComparison,
    MetadataCondition,
    Not,
)
from services.memory.domain.json_equality import json_equal, json_key

_MISSING = object()


def holds(
    expression: Expression,
    condition_holds: Callable[[Condition], bool],
    metadata: Callable[[], Mapping[str, Any]],
) -> bool:
    """Return whether an expression holds for a record, given its conditions on columns and its metadata."""
    return _Evaluation(condition_holds, metadata).holds(expression)


def leaves(expression: Expression | None) -> Iterator[Condition | MetadataCondition]:
    """Yield the conditions an expression is made of."""
    match expression:
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part):
            yield from leaves(part)
        case Condition() | MetadataCondition():
            yield expression


def decided_by_columns(expression: Expression | None) -> bool:
    """Return whether comparisons of columns decide an expression: nothing in it asks for words or metadata."""
    return all(
        isinstance(leaf, Condition) and leaf.comparison is not Comparison.CONTAINS for leaf in leaves(expression)
    )


def required_conditions(expression: Expression | None) -> Iterator[Condition]:
    """Yield the comparisons of columns without which an expression cannot hold."""
    match expression:
        case AllOf(parts):
            for part in parts:
                yield from required_conditions(part)
        case Condition():
            yield expression


class _Evaluation:
    """Evaluates an expression for one record; what its conditions compare is prepared once for all of them."""

    def __init__(self, condition_holds: Callable[[Condition], bool], metadata: Callable[[], Mapping[str, Any]]) -> None:
        self._condition_holds = condition_holds
        self._metadata = metadata
        self._keys: dict[int, Hashable] = {}
        self._elements: dict[int, frozenset[Hashable]] = {}

    def holds(self, expression: Expression) -> bool:
        """See `holds`."""
        match expression:
            case AllOf(parts):
                return all(map(self.holds, parts))
            case AnyOf(parts):
                return any(map(self.holds, parts))
            case Not(part):
                return not self.holds(part)
            case MetadataCondition():
                return self._metadata_holds(expression)
            case Condition():
                return self._condition_holds(expression)

    def _metadata_holds(self, condition: MetadataCondition) -> bool:
        value: Any = self._metadata()
        for key in condition.path:
            value = value.get(key, _MISSING) if isinstance(value, Mapping) else _MISSING
        comparison = condition.comparison
        if value is _MISSING:
            return comparison is MetadataComparison.NOT_EQUAL
        match comparison:
            case MetadataComparison.EXISTS:
                return True
            case MetadataComparison.EQUAL:
                return self._key(value) in condition.among
            case MetadataComparison.NOT_EQUAL:
                return self._key(value) not in condition.among
            case MetadataComparison.CONTAINS:
                return isinstance(value, list) and not self._keys_of(value).isdisjoint(condition.among)
            case _:
                return _in_order(value, comparison, condition.values[0])

    def _key(self, value: object) -> Hashable:
        # The metadata has all values, so none of the same identity follows another one.
        if id(value) not in self._keys:
            self._keys[id(value)] = json_key(value)
        return self._keys[id(value)]

    def _keys_of(self, value: list[object]) -> frozenset[Hashable]:
        if id(value) not in self._elements:
            self._elements[id(value)] = frozenset(map(json_key, value))
        return self._elements[id(value)]


def _in_order(value: Any, comparison: MetadataComparison, bound: Any) -> bool:
    numbers = _is_number(value) and _is_number(bound)
    if not numbers and not (isinstance(value, str) and isinstance(bound, str)):
        return False
    # What equals as JSON is at most and at least, however large the whole numbers are that were rounded for it.
    if json_equal(value, bound):
        return comparison in (MetadataComparison.LESS_OR_EQUAL, MetadataComparison.GREATER_OR_EQUAL)
    if comparison in (MetadataComparison.LESS, MetadataComparison.LESS_OR_EQUAL):
        return bool(value < bound)
    return bool(value > bound)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

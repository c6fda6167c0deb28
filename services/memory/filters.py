"""Checks of what clients ask for, and the meaning of a filter where no database evaluates it."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from services.common.errors import InvalidArgument
from services.memory.domain.filters import Comparison, Condition, Filter, MetadataCondition, Scalar, search_words
from services.memory.domain.json_equality import json_equal
from services.memory.domain.metadata import MOST_METADATA_BYTES, canonical_json
from services.memory.domain.moments import microseconds
from services.memory.domain.records import MemoryKind
from services.memory.domain.scopes import within_scope
from services.memory.expressions import decided_by_columns, holds, leaves
from services.memory.rows.columns import Column, DatabricksIndexSchemas, FieldType, metadata_column
from services.memory.rows.row import ENVELOPE, Row, metadata_of, row_owner, row_ties
from services.memory.rows.values import format_time, parse_boolean, parse_list, parse_time

_ORDERED = frozenset({Comparison.LESS, Comparison.LESS_OR_EQUAL, Comparison.GREATER, Comparison.GREATER_OR_EQUAL})
_TEXTUAL = frozenset({Comparison.CONTAINS, Comparison.STARTS_WITH})
_MAX_JSON_DEPTH = 32


def check_condition(
    kind: MemoryKind, column: str, comparison: Comparison, values: Sequence[Scalar], path: str
) -> Condition:
    """Return the condition with its values in the column's own type.

    `path` is the condition's field path in the request.

    Raises:
        InvalidArgument: the column may not be named, or operator or value do not fit it.
    """
    columns = DatabricksIndexSchemas.filterable(kind)
    if column not in columns:
        raise InvalidArgument.field(
            f"{path}.column",
            f'conditions on {kind.name} records cannot name "{column}"; they can name {", ".join(sorted(columns))}',
        )
    field_type = columns[column]
    if DatabricksIndexSchemas.holds_json(column) and comparison is not Comparison.CONTAINS:
        raise InvalidArgument.field(f"{path}.operator", f'"{column}" is a list: only CONTAINS can be asked of it')
    if comparison in _TEXTUAL and field_type is not FieldType.STRING:
        raise InvalidArgument.field(f"{path}.operator", f'"{column}" is {field_type.value}, not text')
    if comparison in _ORDERED and field_type is FieldType.BOOLEAN:
        raise InvalidArgument.field(f"{path}.operator", f'"{column}" is either true or false and has no order')
    if len(values) > 1 and comparison not in (Comparison.EQUAL, Comparison.NOT_EQUAL):
        raise InvalidArgument.field(f"{path}.values", "more than one value makes sense for EQUAL and NOT_EQUAL only")
    typed = tuple(_typed(field_type, value, f"{path}.values[{position}]") for position, value in enumerate(values))
    condition = Condition(column, comparison, typed)
    if comparison is Comparison.CONTAINS and not condition.words:
        raise InvalidArgument.field(f"{path}.values[0]", "has no word to look for")
    return condition


def _typed(field_type: FieldType, value: Scalar, path: str) -> Scalar:
    match field_type, value:
        case FieldType.BOOLEAN, bool():
            return value
        case ((FieldType.INT | FieldType.BIGINT), int()) if not isinstance(value, bool):
            return value
        case FieldType.FLOAT, int() | float() if not isinstance(value, bool):
            if not math.isfinite(value):
                raise InvalidArgument.field(path, "has to be finite")
            # Stored values went through float32, so the one to compare with does too.
            with np.errstate(over="ignore"):
                return float(np.float32(value))
        case FieldType.STRING, str():
            return value
        case FieldType.STRING, datetime():
            return format_time(value)
        case FieldType.TIMESTAMP, datetime():
            return value
        case _:
            raise InvalidArgument.field(path, f"the column is {field_type.value}, the value is not")


def metadata_text(metadata: Mapping[str, Any], path: str) -> str:
    """Return a client's metadata as JSON text in canonical form.

    Raises:
        InvalidArgument: it uses the reserved key, or is too large or nested too deeply.
    """
    if ENVELOPE in metadata:
        raise InvalidArgument.field(path, f'the key "{ENVELOPE}" is reserved; choose another one')
    if _depth(metadata) > _MAX_JSON_DEPTH:
        raise InvalidArgument.field(path, f"is nested more than {_MAX_JSON_DEPTH} levels deep")
    text = canonical_json(metadata)
    if len(text.encode()) > MOST_METADATA_BYTES:
        raise InvalidArgument.field(
            path, f"may have {MOST_METADATA_BYTES:,} bytes as JSON text; it has {len(text.encode()):,}"
        )
    return text


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level:
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        deepest, level = deepest + 1, inner
    return deepest


def is_empty(chosen: Filter) -> bool:
    """Return whether a filter narrows nothing down (privacy apart)."""
    return not (
        chosen.conditions
        or chosen.scope_prefix
        or chosen.categories
        or chosen.all_categories
        or chosen.metadata
        or chosen.created_before
        or chosen.created_after
        or chosen.expression
        or chosen.subject
    )


def parts_of(document_id: str) -> Filter:
    """Return the filter that selects all records that name a document as theirs."""
    return Filter(conditions=(Condition(Column.PARENT_DOCUMENT_ID, Comparison.EQUAL, (document_id,)),))


def visibility(chosen: Filter) -> Filter:
    """Return the part of a filter that says whose private records are there."""
    return Filter(source=chosen.source, owner=chosen.owner, include_private=chosen.include_private)


def residual(chosen: Filter) -> Filter | None:
    """Return the part of a filter that SQL cannot decide exactly, or None."""
    words = tuple(condition for condition in chosen.conditions if condition.comparison is Comparison.CONTAINS)
    rest = Filter(
        conditions=words,
        categories=chosen.categories,
        all_categories=chosen.all_categories,
        metadata=chosen.metadata,
        subject=chosen.subject,
        subject_alone=chosen.subject_alone,
        expression=None if decided_by_columns(chosen.expression) else chosen.expression,
        include_private=True,
    )
    return None if is_empty(rest) else rest


def columns_needed(kind: MemoryKind, chosen: Filter) -> list[str]:
    """Return the columns `matches` reads for a filter, sorted."""
    parts = [*chosen.conditions, *leaves(chosen.expression)]
    columns = {part.column for part in parts if isinstance(part, Condition)}
    if kind is MemoryKind.UNIFIED:
        if chosen.categories or chosen.all_categories:
            columns.add(Column.CATEGORIES)
        if chosen.scope_prefix:
            columns.add(Column.SCOPE)
        if not chosen.include_private:
            columns.add(Column.PRIVATE)
            if chosen.owner:
                columns |= {Column.SOURCE, Column.METADATA}
    if chosen.metadata or chosen.subject or any(isinstance(part, MetadataCondition) for part in parts):
        columns.add(metadata_column(kind))
    return sorted(columns)


def matches(kind: MemoryKind, chosen: Filter, row: Row) -> bool:
    """Return whether a row is what the filter asks for; the times are left to the store: see `within_times`."""
    if kind is MemoryKind.UNIFIED:
        if not _is_visible(chosen, row):
            return False
        if chosen.scope_prefix and not within_scope(row[Column.SCOPE] or "/", chosen.scope_prefix):
            return False
        if chosen.categories or chosen.all_categories:
            own_categories = parse_list(row[Column.CATEGORIES])
            if chosen.categories and chosen.categories.isdisjoint(own_categories):
                return False
            if not chosen.all_categories.issubset(own_categories):
                return False
    if chosen.subject and chosen.subject not in row_ties(kind, row).subjects:
        return False
    if chosen.subject_alone and not row_ties(kind, row).are_of_alone(chosen.subject):
        return False
    metadata = functools.cache(lambda: metadata_of(kind, row))
    if chosen.metadata and not _has_metadata(metadata(), chosen.metadata):
        return False
    if not chosen.conditions and chosen.expression is None:
        return True
    types = DatabricksIndexSchemas.filterable(kind)
    # A megabyte of text is read once, however many conditions look for words in it.
    words = functools.cache(lambda column: search_words(row[column]))

    def condition_holds(condition: Condition) -> bool:
        if condition.comparison is Comparison.CONTAINS:
            return row[condition.column] is not None and condition.words <= words(condition.column)
        return _holds(condition, types[condition.column], row[condition.column])

    return all(map(condition_holds, chosen.conditions)) and (
        chosen.expression is None or holds(chosen.expression, condition_holds, metadata)
    )


def _is_visible(chosen: Filter, row: Row) -> bool:
    if chosen.include_private or not parse_boolean(row[Column.PRIVATE]):
        return True
    if not chosen.owner or (chosen.source and row[Column.SOURCE] != chosen.source):
        return False
    return row_owner(row) == chosen.owner


def within_times(chosen: Filter, created_us: int) -> bool:
    """Return whether a record made at a time is of those that a filter asks for."""
    if chosen.created_before is not None and created_us >= microseconds(chosen.created_before):
        return False
    return chosen.created_after is None or created_us >= microseconds(chosen.created_after)


def _has_metadata(own: Mapping[str, Any], required: Mapping[str, str]) -> bool:
    return all(key in own and json_equal(own[key], _parsed(value)) for key, value in required.items())


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> Any:
    """Return the value of a filter's JSON text, which is compared with one row after another; never to be changed."""
    return json.loads(text)


def _holds(condition: Condition, field_type: FieldType, raw: object) -> bool:
    if raw is None:
        return condition.comparison is Comparison.NOT_EQUAL
    value: Any = raw
    if field_type is FieldType.TIMESTAMP:
        value = parse_time(raw)
    elif field_type is FieldType.BOOLEAN:
        value = parse_boolean(raw)
    operand: Any = condition.values[0]
    match condition.comparison:
        case Comparison.EQUAL:
            return value in condition.among
        case Comparison.NOT_EQUAL:
            return value not in condition.among
        case Comparison.LESS:
            return bool(value < operand)
        case Comparison.LESS_OR_EQUAL:
            return bool(value <= operand)
        case Comparison.GREATER:
            return bool(value > operand)
        case Comparison.GREATER_OR_EQUAL:
            return bool(value >= operand)
        case Comparison.STARTS_WITH:
            return bool(value.startswith(operand))
        case Comparison.CONTAINS:
            raise ValueError("words are compared by `matches`")

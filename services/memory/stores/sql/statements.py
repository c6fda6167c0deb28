"""The clauses every statement is made of. `owned` is the one place that ties a statement to group and crew."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, func, or_

from services.memory.domain import Comparison, Condition, Filter, MemoryKind, NamespaceKey, microseconds
from services.memory.schemas import (
    Column,
    DatabricksIndexSchemas,
    FieldType,
    canonical_json,
    has_column,
    metadata_column,
)


def owned(table: Table, key: NamespaceKey) -> ColumnElement[bool]:
    """Return the clause that holds for the rows of a namespace and for no others."""
    clauses = [table.c.namespace_id == key.id, table.c[Column.GROUP_ID] == key.group_id]
    if has_column(key.kind, Column.CREW_ID):
        clauses.append(table.c[Column.CREW_ID] == key.crew_id)
    return and_(*clauses)


def alive(table: Table, now_us: int) -> ColumnElement[bool]:
    """Return the clause that holds for rows that have not expired."""
    return or_(table.c.expires_us.is_(None), table.c.expires_us > now_us)


def filtered(table: Table, kind: MemoryKind, chosen: Filter, dialect: str) -> list[ColumnElement[bool]]:
    """Return clauses that hold for every row the filter asks for, and for few others.

    Words, categories and metadata are narrowed down only; `filters.residual` decides them.
    """
    clauses: list[ColumnElement[bool]] = []
    if kind is MemoryKind.UNIFIED:
        clauses.extend(_unified(table, chosen, dialect))
    if chosen.created_before is not None:
        clauses.append(table.c.created_us < microseconds(chosen.created_before))
    for name, value in chosen.metadata.items():
        pair = canonical_json({name: json.loads(value)})[1:-1]
        clauses.append(_holds_text(table.c[metadata_column(kind)], pair, dialect))
    types = DatabricksIndexSchemas.filterable(kind)
    clauses.extend(
        _compare(table.c[condition.column], types[condition.column], condition, dialect)
        for condition in chosen.conditions
        if condition.comparison is not Comparison.CONTAINS
    )
    return clauses


def _unified(table: Table, chosen: Filter, dialect: str) -> Iterator[ColumnElement[bool]]:
    if not chosen.include_private:
        public = table.c[Column.PRIVATE].is_(False)
        yield or_(public, table.c[Column.SOURCE] == chosen.source) if chosen.source else public
    if chosen.scope_prefix not in ("", "/"):
        scope, below = table.c[Column.SCOPE], chosen.scope_prefix + "/"
        yield or_(scope == chosen.scope_prefix, func.substr(scope, 1, len(below)) == below)
    if chosen.categories:
        column = table.c[Column.CATEGORIES]
        yield or_(*(_holds_text(column, canonical_json(name), dialect) for name in sorted(chosen.categories)))


def _compare(column: Any, field_type: FieldType, condition: Condition, dialect: str) -> ColumnElement[bool]:
    values: Sequence[Any] = condition.values
    wanted = values[0]
    # Code points decide the order of texts, whatever the database's language.
    ordered = column.collate("C") if field_type is FieldType.STRING and dialect == "postgresql" else column
    result: ColumnElement[bool]
    match condition.comparison:
        case Comparison.EQUAL:
            result = column.in_(values)
        case Comparison.NOT_EQUAL:
            result = or_(column.is_(None), column.not_in(values)) if column.nullable else column.not_in(values)
        case Comparison.LESS:
            result = ordered < wanted
        case Comparison.LESS_OR_EQUAL:
            result = ordered <= wanted
        case Comparison.GREATER:
            result = ordered > wanted
        case Comparison.GREATER_OR_EQUAL:
            result = ordered >= wanted
        case Comparison.STARTS_WITH:
            result = func.substr(column, 1, len(wanted)) == wanted
        case Comparison.CONTAINS:
            raise ValueError("words are not looked for in SQL")
    return result


def _holds_text(column: Any, text: str, dialect: str) -> ColumnElement[bool]:
    position = func.strpos(column, text) if dialect == "postgresql" else func.instr(column, text)
    return position > 0

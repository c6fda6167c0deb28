"""The clauses every statement is made of. `owned` is the one place that ties a statement to group and crew."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Table, and_, bindparam, func, or_, select

from services.memory.domain import Comparison, Condition, Filter, MemoryKind, NamespaceKey, microseconds
from services.memory.schemas import (
    Column,
    DatabricksIndexSchemas,
    FieldType,
    canonical_json,
    has_column,
    metadata_column,
)
from services.memory.tables import namespaces, records

NAMESPACE_VERSION: Final = "namespace_version"
WINNERS: Final = "winners"
_NAMESPACE, _GROUP, _CREW = "owner_namespace", "owner_group", "owner_crew"


def owned(table: Table, key: NamespaceKey) -> ColumnElement[bool]:
    """Return the clause that holds for the rows of a namespace and for no others."""
    return _owned(table, key.kind, owner_parameters(key))


def owner_parameters(key: NamespaceKey) -> dict[str, str]:
    """Return the values of `owned_by_parameters`."""
    return {_NAMESPACE: key.id, _GROUP: key.group_id, _CREW: key.crew_id}


def owned_by_parameters(table: Table, kind: MemoryKind) -> ColumnElement[bool]:
    """Return `owned` for statements that are made once: whose rows is told when they are executed."""
    return _owned(table, kind, {name: bindparam(name) for name in (_NAMESPACE, _GROUP, _CREW)})


def _owned(table: Table, kind: MemoryKind, owner: Mapping[str, Any]) -> ColumnElement[bool]:
    clauses = [table.c.namespace_id == owner[_NAMESPACE], table.c[Column.GROUP_ID] == owner[_GROUP]]
    if has_column(kind, Column.CREW_ID):
        clauses.append(table.c[Column.CREW_ID] == owner[_CREW])
    return and_(*clauses)


@functools.cache
def winners(kind: MemoryKind, *, embeddings: bool) -> Select[Any]:
    """Return the statement that reads rows by their ids (parameter `WINNERS`) beside their namespace's version.

    It takes `owner_parameters` too. A namespace without any of the rows is one row of NULLs.
    """
    table = records[kind]
    ids = table.c[Column.ID].in_(bindparam(WINNERS, expanding=True))
    return (
        select(namespaces.c.version.label(NAMESPACE_VERSION), *row_columns(table, embeddings=embeddings))
        .select_from(namespaces.outerjoin(table, and_(owned_by_parameters(table, kind), ids)))
        .where(namespaces.c.id == bindparam(_NAMESPACE), namespaces.c.group_id == bindparam(_GROUP))
    )


def row_columns(table: Table, *, embeddings: bool) -> list[ColumnElement[Any]]:
    """Return a row's columns, with or without its vector."""
    return [column for column in table.c if embeddings or column.name != Column.EMBEDDING]


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

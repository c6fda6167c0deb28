"""Conditions and expressions of filters in SQL, as far as it can decide them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, false, func, not_, or_

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
from services.memory.domain.json_equality import holds_number
from services.memory.domain.records import MemoryKind
from services.memory.expressions import decided_by_columns
from services.memory.row_values import canonical_json
from services.memory.schemas import DatabricksIndexSchemas, FieldType, metadata_column


def narrowed(table: Table, kind: MemoryKind, expression: Expression, dialect: str) -> ColumnElement[bool] | None:
    """Return a clause that holds for every row the expression holds for; None where SQL cannot say anything.

    It holds for no other rows where `decided_by_columns` holds for the expression.
    """
    match expression:
        case AllOf(parts):
            clauses = [c for c in (narrowed(table, kind, part, dialect) for part in parts) if c is not None]
            return and_(*clauses) if clauses else None
        case AnyOf(parts):
            clauses = [c for c in (narrowed(table, kind, part, dialect) for part in parts) if c is not None]
            return or_(*clauses) if len(clauses) == len(parts) else None
        case Not(part):
            clause = narrowed(table, kind, part, dialect) if decided_by_columns(part) else None
            # What is NULL does not hold, so its negation does.
            return None if clause is None else not_(func.coalesce(clause, false()))
        case MetadataCondition():
            return _in_metadata(table.c[metadata_column(kind)], expression, dialect)
        case Condition():
            if expression.comparison is Comparison.CONTAINS:
                return None
            field_type = DatabricksIndexSchemas.filterable(kind)[expression.column]
            return compare(table.c[expression.column], field_type, expression, dialect)


def _in_metadata(column: Any, condition: MetadataCondition, dialect: str) -> ColumnElement[bool] | None:
    """Return a clause that holds where the JSON text has the parts without which the condition cannot hold."""
    if condition.comparison is MetadataComparison.NOT_EQUAL:
        return None
    clauses = [holds_text(column, f"{canonical_json(key)}:", dialect) for key in condition.path]
    # Numbers may be stored in several spellings, so only texts and truth values are looked for.
    if condition.comparison in (MetadataComparison.EQUAL, MetadataComparison.CONTAINS) and not any(
        map(holds_number, condition.values)
    ):
        clauses.append(or_(*(holds_text(column, canonical_json(value), dialect) for value in condition.values)))
    return and_(*clauses)


def compare(column: Any, field_type: FieldType, condition: Condition, dialect: str) -> ColumnElement[bool]:
    """Return the clause of a condition that asks for no words; NULL where a column that is NULL has no order."""
    values: Sequence[Any] = condition.values
    operand = values[0]
    # Code points decide the order of texts: the language of the database does not matter.
    ordered = column.collate("C") if field_type is FieldType.STRING and dialect == "postgresql" else column
    result: ColumnElement[bool]
    match condition.comparison:
        case Comparison.EQUAL:
            result = column.in_(values)
        case Comparison.NOT_EQUAL:
            result = or_(column.is_(None), column.not_in(values)) if column.nullable else column.not_in(values)
        case Comparison.LESS:
            result = ordered < operand
        case Comparison.LESS_OR_EQUAL:
            result = ordered <= operand
        case Comparison.GREATER:
            result = ordered > operand
        case Comparison.GREATER_OR_EQUAL:
            result = ordered >= operand
        case Comparison.STARTS_WITH:
            result = func.substr(column, 1, len(operand)) == operand
        case Comparison.CONTAINS:
            raise ValueError("words are not looked for in SQL")
    return result


def holds_text(column: Any, text: str, dialect: str) -> ColumnElement[bool]:
    """Return the clause that holds where a column contains a text."""
    position = func.strpos(column, text) if dialect == "postgresql" else func.instr(column, text)
    return position > 0

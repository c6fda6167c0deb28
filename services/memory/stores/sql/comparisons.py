"""Conditions and expressions of filters in SQL, as far as it can decide them."""

from collections.abc import Sequence
from typing import Any, Final

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
from services.memory.domain.metadata import canonical_json
from services.memory.domain.records import MemoryKind
from services.memory.expressions import decided_by_columns
from services.memory.rows.columns import DatabricksIndexSchemas, FieldType, metadata_column

_MOST_TEXTS: Final = 100
"""Texts that one expression looks for in metadata: each is one level more of SQLite's tree, which has 1000."""


def narrowed(table: Table, kind: MemoryKind, expression: Expression, dialect: str) -> ColumnElement[bool] | None:
    """Return a clause that holds for every row the expression holds for; None where SQL cannot say anything.

    It holds for no other rows where `decided_by_columns` holds for the expression.
    """
    return _Narrowing(table, kind, dialect).clause(expression)


class _Narrowing:
    """Turns one expression into a clause, and counts what all its parts look for in metadata together."""

    def __init__(self, table: Table, kind: MemoryKind, dialect: str) -> None:
        self._table = table
        self._kind = kind
        self._dialect = dialect
        self._texts_left = _MOST_TEXTS

    def clause(self, expression: Expression) -> ColumnElement[bool] | None:
        """See `narrowed`."""
        match expression:
            case AllOf(parts):
                clauses = [clause for clause in map(self.clause, parts) if clause is not None]
                return and_(*clauses) if clauses else None
            case AnyOf(parts):
                clauses = [clause for clause in map(self.clause, parts) if clause is not None]
                return or_(*clauses) if len(clauses) == len(parts) else None
            case Not(part):
                clause = self.clause(part) if decided_by_columns(part) else None
                # What is NULL does not hold, so its negation does.
                return None if clause is None else not_(func.coalesce(clause, false()))
            case MetadataCondition():
                return self._in_metadata(expression)
            case Condition():
                if expression.comparison is Comparison.CONTAINS:
                    return None
                field_type = DatabricksIndexSchemas.filterable(self._kind)[expression.column]
                return compare(self._table.c[expression.column], field_type, expression, self._dialect)

    def _in_metadata(self, condition: MetadataCondition) -> ColumnElement[bool] | None:
        """Return a clause that holds where the JSON text has parts without which the condition cannot hold."""
        if condition.comparison is MetadataComparison.NOT_EQUAL:
            return None
        clauses = []
        keys = list(dict.fromkeys(condition.path))
        if self._takes(len(keys)):
            clauses += [self._has(f"{canonical_json(key)}:") for key in keys]
        # Numbers may be stored in several spellings, so only texts and truth values are looked for.
        if (
            condition.comparison in (MetadataComparison.EQUAL, MetadataComparison.CONTAINS)
            and not any(map(holds_number, condition.values))
            and self._takes(len(condition.values))
        ):
            clauses.append(or_(*(self._has(canonical_json(value)) for value in condition.values)))
        return and_(*clauses) if clauses else None

    def _takes(self, texts: int) -> bool:
        if texts > self._texts_left:
            return False
        self._texts_left -= texts
        return True

    def _has(self, text: str) -> ColumnElement[bool]:
        return holds_text(self._table.c[metadata_column(self._kind)], text, self._dialect)


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

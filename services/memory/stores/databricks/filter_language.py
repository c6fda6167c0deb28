"""Filters in the two languages of the vector store: a dict on standard endpoints, a string on storage-optimized ones.

Only what both the store and this service understand alike is handed over; rows that come back are held against the
whole filter once more.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.memory.domain.filters import Comparison, Filter
from services.memory.domain.records import MemoryKind
from services.memory.expressions import required_conditions
from services.memory.rows.columns import Column, DatabricksIndexSchemas, FieldType, has_column
from services.memory.stores.databricks.upstream_errors import unsafe_owner

MAX_VALUES = 1024
"""Values of one condition."""

_OPERATORS: Mapping[Comparison, str] = {
    Comparison.LESS: "<",
    Comparison.LESS_OR_EQUAL: "<=",
    Comparison.GREATER: ">",
    Comparison.GREATER_OR_EQUAL: ">=",
}

# Whether quotes within texts are doubled or escaped by a backslash is not documented: texts with either are filtered
# here.
_SAFE_TEXT = re.compile(r"[\w .:@/+=~|-]*")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose rows: a group's, and one crew's or (None) all crews'."""

    kind: MemoryKind
    group_id: str
    memory_id: str | None
    among: tuple[str, ...] = ()
    """Of all crews only these, at most `MAX_VALUES`; empty means all."""

    def owns(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row is one of the owner's."""
        if row.get(Column.GROUP_ID) != self.group_id:
            return False
        crews = self.crews
        return not crews or row.get(Column.CREW_ID) in crews

    @property
    def crews(self) -> tuple[str, ...]:
        """The crews whose rows are meant; empty means all, or that the kind knows none."""
        if not has_column(self.kind, Column.CREW_ID):
            return ()
        return self.among if self.memory_id is None else (self.memory_id,)


@dataclass(frozen=True, slots=True)
class Clause:
    """A comparison that is handed over: EQUAL and NOT_EQUAL with several values, others with one."""

    column: str
    comparison: Comparison
    values: Sequence[Any]


def owner_clauses(owner: Owner) -> list[Clause]:
    """Return the clauses that every query carries: this alone ties it to group and memory id."""
    clauses = [Clause(Column.GROUP_ID, Comparison.EQUAL, (owner.group_id,))]
    if owner.crews:
        clauses.append(Clause(Column.CREW_ID, Comparison.EQUAL, owner.crews))
    return clauses


@dataclass(frozen=True, slots=True)
class Handed:
    """What of a filter the store decides."""

    clauses: Sequence[Clause]
    whole: bool
    """Whether that is all of it."""
    but_private: bool
    """Whether only private rows are left to be sorted out: most rows of an answer are meant."""


def handed_over(owner: Owner, chosen: Filter) -> Handed:
    """Return the owner's clauses and what of a filter the store decides."""
    clauses = owner_clauses(owner)
    # Times to live, scopes, lists and metadata are not expressible there.
    whole = owner.kind is not MemoryKind.SHORT_TERM and not (
        chosen.scope_prefix
        or chosen.categories
        or chosen.all_categories
        or chosen.metadata
        or chosen.created_before
        or chosen.created_after
        or chosen.owner
        or chosen.subject
        or chosen.expression
    )
    # A row that does not say whether it is private is not: no comparison there holds for what is missing.
    but_private = owner.kind is MemoryKind.UNIFIED and not chosen.include_private
    taken = {(clause.column, clause.comparison) for clause in clauses}
    types = DatabricksIndexSchemas.filterable(owner.kind)
    for condition in (*chosen.conditions, *required_conditions(chosen.expression)):
        # A value that is missing is unequal here, and meets no comparison there.
        understood = condition.comparison in (Comparison.EQUAL, *_OPERATORS)
        # One key of the dict language holds one comparison.
        repeated = (condition.column, condition.comparison) in taken
        if (
            understood
            and not repeated
            and types[condition.column] is not FieldType.TIMESTAMP
            and len(condition.values) <= MAX_VALUES
            # Neither language has a number for what lies beyond single precision.
            and not any(isinstance(value, float) and math.isinf(value) for value in condition.values)
        ):
            taken.add((condition.column, condition.comparison))
            clauses.append(Clause(condition.column, condition.comparison, condition.values))
        else:
            whole = False
    return Handed(clauses, whole and not but_private, whole and but_private)


def keys_clause(keys: Sequence[str]) -> Clause:
    """Return the clause that holds for rows of these primary keys."""
    return Clause(Column.ID, Comparison.EQUAL, tuple(keys))


def is_safe(value: str) -> bool:
    """Return whether the string language can hold a text."""
    return _SAFE_TEXT.fullmatch(value) is not None


def query_filter(clauses: Sequence[Clause], *, storage_optimized: bool) -> dict[str, str]:
    """Return the part of a query's body that holds the filter.

    Raises:
        InvalidArgument: an owner cannot be written safely in the string language.
    """
    if storage_optimized:
        return {"filter_string": " AND ".join(_string_clause(clause) for clause in clauses if _is_safe(clause))}
    return {"filters_json": json.dumps(dict(_dict_clause(clause) for clause in clauses), separators=(",", ":"))}


def _dict_clause(clause: Clause) -> tuple[str, Any]:
    value = clause.values[0] if len(clause.values) == 1 else list(clause.values)
    if clause.comparison is Comparison.EQUAL:
        return clause.column, value
    if clause.comparison is Comparison.NOT_EQUAL:
        return f"{clause.column} NOT", value
    return f"{clause.column} {_OPERATORS[clause.comparison]}", value


def _is_safe(clause: Clause) -> bool:
    safe = all(is_safe(value) for value in clause.values if isinstance(value, str))
    if not safe and clause.column in (Column.GROUP_ID, Column.CREW_ID):
        raise unsafe_owner(clause.column)
    return safe


def _string_clause(clause: Clause) -> str:
    values = [_literal(value) for value in clause.values]
    if clause.comparison in (Comparison.EQUAL, Comparison.NOT_EQUAL):
        negated = clause.comparison is Comparison.NOT_EQUAL
        if len(values) == 1:
            return f"{clause.column} {'!=' if negated else '='} {values[0]}"
        return f"{clause.column} {'NOT IN' if negated else 'IN'} ({', '.join(values)})"
    return f"{clause.column} {_OPERATORS[clause.comparison]} {values[0]}"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return f"'{value}'" if isinstance(value, str) else repr(value)

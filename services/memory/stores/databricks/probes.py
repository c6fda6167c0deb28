"""What is looked up in an index to judge it: whose rows it has, which cannot be read, how rows are scored."""

from dataclasses import dataclass

import numpy as np

from services.memory.domain.filters import Comparison
from services.memory.domain.vectors import Vector
from services.memory.rows.columns import Column, DatabricksIndexSchemas
from services.memory.rows.values import read_float, read_vector
from services.memory.stores.databricks.filter_language import Clause, Owner, keys_clause, owner_clauses
from services.memory.stores.databricks.queries import MAX_RESULTS, IndexQueries
from services.memory.stores.databricks.row_checks import is_owned
from services.memory.stores.databricks.survey import Survey
from services.memory.stores.databricks.wire import SCORE

_ROWS_TRIED = 4
"""Rows among which one with a vector of unit length is looked for."""


@dataclass(frozen=True, slots=True)
class IndexProbes:
    """The look-ups of one location."""

    queries: IndexQueries

    async def holds_others(self, index: str, group_id: str) -> bool:
        """Return whether an index has rows of other groups, whether or not a backend of theirs names it now."""
        others = Clause(Column.GROUP_ID, Comparison.NOT_EQUAL, (group_id,))
        columns = [Column.ID, Column.GROUP_ID]
        async for row in self.queries.rows(index, [others], None, 1, columns=columns):
            return bool(row[Column.GROUP_ID] != group_id)
        return False

    async def survey(self, index: str, owner: Owner) -> Survey:
        """Look for rows among the owner's first 10,000 that are no records."""
        columns = DatabricksIndexSchemas.get_search_columns(owner.kind)
        survey = Survey()
        async for row in self.queries.rows(index, owner_clauses(owner), None, MAX_RESULTS, columns=columns):
            if owner.owns(row):
                survey.add(owner.kind, row)
        return survey

    async def unit_vector_of(self, index: str, owner: Owner) -> tuple[str, Vector] | None:
        """Return the primary key and the vector of one of the owner's rows, whose vector has unit length."""
        columns = [Column.ID, *(clause.column for clause in owner_clauses(owner)), Column.EMBEDDING]
        async for row in self.queries.rows(index, owner_clauses(owner), None, _ROWS_TRIED, columns=columns):
            vector = read_vector(row.get(Column.EMBEDDING))
            if is_owned(owner, row) and vector is not None and abs(float(np.linalg.norm(vector)) - 1.0) < 1e-3:
                return row[Column.ID], vector
        return None

    async def score(
        self, index: str, owner: Owner, stored_id: str, vector: Vector, threshold: float | None = None
    ) -> float | None:
        """Return the score of one of the owner's rows as the workspace gives it; None when the row is not found.

        With a threshold it is found if the workspace finds it good enough.
        """
        clauses = [*owner_clauses(owner), keys_clause([stored_id])]
        columns = [clause.column for clause in clauses]
        async for row in self.queries.rows(index, clauses, vector, 1, columns=columns, threshold=threshold):
            if row[Column.ID] == stored_id and is_owned(owner, row):
                return read_float(row.get(SCORE))
        return None

"""What decides whether a row is shown: whose it is, whether it has ended, and the filter."""

from datetime import datetime, timedelta

from services.memory import filters
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.moments import microseconds
from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import Column, DatabricksIndexSchemas, metadata_column
from services.memory.rows.foreign import note_foreign_row
from services.memory.rows.row import Row, created_of, row_expires_at, typed_row
from services.memory.rows.values import read_integer
from services.memory.stores.databricks.filter_language import Owner, owner_clauses


def is_owned(owner: Owner, row: Row) -> bool:
    """Return whether a row is the owner's; one that is not was not asked for, and is dropped, logged and counted."""
    if owner.owns(row):
        # What has no key that can be named is no row of ours, and nothing could be done with it.
        return isinstance(row.get(Column.ID), str)
    note_foreign_row(owner.kind)
    return False


def decision_columns(owner: Owner, chosen: Filter) -> list[str]:
    """Return the columns that `passes` and the check of ownership read."""
    columns = {clause.column for clause in owner_clauses(owner)} | {Column.ID, Column.GROUP_ID}
    columns |= {*filters.columns_needed(owner.kind, chosen), metadata_column(owner.kind)}
    schema = DatabricksIndexSchemas.get_schema(owner.kind)
    columns |= {name for name in (Column.CREATED_AT, Column.TIMESTAMP, Column.TTL_HOURS) if name in schema}
    return [name for name in schema if name in columns]


def passes(kind: MemoryKind, chosen: Filter, row: Row, now: datetime) -> bool:
    """Return whether a row is alive and matches a filter; what a row does not say meets no condition."""
    created, ends = created_of(row), row_expires_at(kind, row)
    if ends is not None and ends <= now:
        return False
    if kind is MemoryKind.SHORT_TERM and created is not None:
        # A row without a lifetime was written by something else, and nobody said that it ends.
        hours = read_integer(row.get(Column.TTL_HOURS), bits=32)
        if hours > 0 and now - created >= timedelta(hours=hours):
            return False
    if chosen is EVERYTHING:
        return True
    timed = chosen.created_before is not None or chosen.created_after is not None
    if timed and (created is None or not filters.within_times(chosen, microseconds(created))):
        return False
    return filters.matches(kind, chosen, typed_row(kind, row))
